#!/usr/bin/perl
# A line echo on Net::Server::Multiplex, to measure with `lineload` what its restart keeps: examples/echo.rs in Perl.
# Whatever the modules do by themselves is left as they do it. Debian: libnet-server-perl libio-multiplex-perl.
#
#   /path/of/echo.pl [--port N] [--pid_file FILE] ...
#
# takes any option of Net::Server (without a port the kernel chooses one). The path has to be absolute: for SIGHUP the
# module runs this file again, without PATH. When it listens, and after each restart, it prints
# "listening on 127.0.0.1:PORT" on standard error. With a pid file it says in FILE.status how many restarts are done: one
# is when the first connection is served, for not before that a HUP is safe.

package Echo;
use strict;
use warnings;
use base 'Net::Server::Multiplex';

my $restarts = $ENV{ECHO_RESTARTS} || 0;
$ENV{ECHO_RESTARTS} = $restarts + 1;    # for the image that comes after this one

# The backlog is that of examples/echo.rs: who is refused is not refused for want of room.
__PACKAGE__->run(host => '127.0.0.1', port => 0, ipv => 4, listen => 4096, log_level => 1);

sub pre_loop_hook {
    my $self = shift;
    print STDERR 'listening on 127.0.0.1:', $self->{server}{sock}[0]->sockport, "\n";
}

my $told;

sub mux_connection {
    my $file = $_[0]{net_server}{server}{pid_file};
    return if !$file || $told++;
    open my $status, '>', "$file.status" or die "$file.status: $!";
    print $status "generation = $restarts\nbusy = 0\n";
}

sub mux_input {
    my ($self, $mux, $handle, $input) = @_;
    while ((my $end = index $$input, "\n") >= 0) {
        $mux->write($handle, substr $$input, 0, $end + 1, '');
    }
}
