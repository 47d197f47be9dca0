#!/usr/bin/perl
# Lines on Perl's IO::Multiplex, as its documentation shows it.
#
#   perl iomultiplex.pl echo|broadcast 127.0.0.1:PORT|unix:PATH        (Debian: libio-multiplex-perl)

package Lines;
use strict;
use warnings;
use IO::Multiplex;
use IO::Socket::INET;
use IO::Socket::UNIX;
use Socket qw(IPPROTO_TCP SOMAXCONN TCP_NODELAY);

my ($mode, $addr) = @ARGV;
my $unix = $addr =~ /^unix:(.*)/ ? $1 : undef;
my $listener =
    defined $unix
    ? IO::Socket::UNIX->new(Local => $unix, Listen => SOMAXCONN)
    : IO::Socket::INET->new(LocalAddr => $addr, Listen => SOMAXCONN, ReuseAddr => 1);
die "$addr: $!\n" if !$listener;
$SIG{PIPE} = 'IGNORE';

my $mux = IO::Multiplex->new;
$mux->listen($listener);
$mux->set_callback_object(__PACKAGE__);
my %handles;
$mux->loop;

sub mux_connection {
    my ($class, $mux, $handle) = @_;
    setsockopt $handle, IPPROTO_TCP, TCP_NODELAY, 1 if !defined $unix;
    $handles{$handle} = $handle;
}

sub mux_input {
    my ($class, $mux, $handle, $input) = @_;
    while ($$input =~ s/^(.*\n)//) {
        if ($mode eq 'echo') {
            $mux->write($handle, $1);
        } else {
            my $line = $1;
            for my $other (values %handles) {
                $mux->write($other, $line) if $other != $handle;
            }
        }
    }
}

sub mux_close {
    my ($class, $mux, $handle) = @_;
    delete $handles{$handle};
}
