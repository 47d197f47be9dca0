# Drives a message server with the client of Debian's package "passenger" (its Ruby library, 6.0).
#
#     ruby message_client.rb status|classic ADDRESS USER PASSWORD
#
# Prints a line for each thing that went as it should and ends with "done"; anything else raises.

require 'phusion_passenger'
PhusionPassenger.locate_directories
PhusionPassenger.require_passenger_lib 'message_channel'
PhusionPassenger.require_passenger_lib 'message_client'
require 'socket'

dialect, address, user, password = ARGV

def expect(what, got, wanted)
  raise "#{what}: #{got.inspect} is not #{wanted.inspect}" if got != wanted
  puts what
end

# Whole clients speak the dialect "status".
def status(address, user, password)
  client = PhusionPassenger::MessageClient.new(user, password, "unix:#{address}")
  3.times do |count|
    client.write('ping')
    expect("ping #{count}", client.read, ['pong', count.to_s])
  end
  client.write('ping', 'with', '', 'more')
  expect('ping with arguments', client.read, ['pong', '3'])
  client.write('give')
  io = client.recv_io
  expect('a descriptor taken', io.read, 'through the descriptor')
  expect('and confirmed', client.read, ['sent'])
  client.write('take')
  expect('asked for one', client.read, ['ask'])
  reading, writing = IO.pipe
  channel = client.instance_variable_get(:@channel)
  channel.send_io(writing)
  writing.close
  expect('a descriptor given', client.read, ['taken'])
  expect('and written to', reading.read, 'taken')
  client.write('scalar')
  expect('asked for a scalar', client.read, ['ask'])
  client.write_scalar("\x00\xff any\r\n".b)
  expect('a scalar there and back', client.read_scalar, "\x00\xff any\r\n".b)
  client.close
  begin
    PhusionPassenger::MessageClient.new(user, 'wrong', "unix:#{address}")
    raise 'a wrong password was let in'
  rescue SecurityError => error
    expect('a wrong password', error.message, 'Authentication error: Invalid username or password')
  end
end

# The newer library has no client for the dialect "classic"; its channel and a login by hand do.
def classic(address, user, password)
  channel = PhusionPassenger::MessageChannel.new(UNIXSocket.new(address))
  expect('banner', channel.read, ['version', '1'])
  channel.write_scalar(user)
  channel.write_scalar(password)
  expect('verdict', channel.read, ['ok'])
  3.times do |count|
    channel.write('ping')
    expect("ping #{count}", channel.read, ['pong', count.to_s])
  end
  1000.times { channel.write('ping', 'x' * 3000) }
  1000.times { |count| raise 'out of order' if channel.read != ['pong', (count + 3).to_s] }
  puts 'a thousand pings'
  channel.write('nobody knows this')
  expect('the end', channel.read, nil)
  channel = PhusionPassenger::MessageChannel.new(UNIXSocket.new(address))
  channel.read
  channel.write_scalar(user)
  channel.write_scalar('wrong')
  expect('a wrong password', channel.read, ['Invalid username or password.'])
  expect('and the end', channel.read, nil)
end

send(dialect, address, user, password)
puts 'done'
