#!/usr/bin/perl
# Lines on Perl's Net::Server::Multiplex, as its documentation shows it.
#
#   perl netserver.pl echo|broadcast 127.0.0.1:PORT|unix:PATH      (Debian: libnet-server-perl libio-multiplex-perl)

package Lines;
use strict;
use warnings;
use base 'Net::Server::Multiplex';
use Socket qw(IPPROTO_TCP SOMAXCONN TCP_NODELAY);

my ($mode, $addr) = splice @ARGV, 0, 2;
my $unix = $addr =~ /^unix:(.*)/ ? $1 : undef;
my %listen = defined $unix ? (port => "$unix/unix") : (port => $addr, ipv => 4);
__PACKAGE__->run(%listen, listen => SOMAXCONN, user => $>, group => $) + 0, log_level => 1);

sub mux_connection {
    my ($self, $mux, $handle) = @_;
    setsockopt $handle, IPPROTO_TCP, TCP_NODELAY, 1 if !defined $unix;
}

sub mux_input {
    my ($self, $mux, $handle, $input) = @_;
    while ($$input =~ s/^(.*\n)//) {
        if ($mode eq 'echo') {
            $mux->write($handle, $1);
        } else {
            my $line = $1;
            for my $other ($mux->handles) {
                $mux->write($other, $line) if $other != $handle;
            }
        }
    }
}
