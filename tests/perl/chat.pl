#!/usr/bin/perl
# A chat server on Net::Server::Multiplex, written for the differential test in tests/perl_original.rs: the rules and
# line formats of the module's sample chat, with our own sentences. Whatever the modules do by themselves is left as
# they do it: that is what the test compares with. Debian: libnet-server-perl libio-multiplex-perl.
#
#   perl chat.pl [--port N] [--allow PATTERN] [--deny PATTERN] ...
#
# takes any option of Net::Server (without a port the kernel chooses one), and
#   --junior_seconds N   how long a newcomer may be silent, 20
#   --keep_cr            keeps the CR of a CR LF: a fault on purpose, for the test that proves that it would be seen
#
# When it is ready it prints "listening on 127.0.0.1:PORT" on standard error.

package Chat;
use strict;
use warnings;
use base 'Net::Server::Multiplex';

use constant JUNIOR_SECONDS => 20;    # unless the option says otherwise
use constant SENIOR_SECONDS => 40;

__PACKAGE__->run(host => '127.0.0.1', port => 0, ipv => 4, log_level => 1);

# --- the server object

sub options {
    my ($self, $template) = @_;
    $self->SUPER::options($template);
    $template->{$_} = \$self->{server}{$_} for qw(keep_cr junior_seconds);
}

sub pre_loop_hook {
    my $self = shift;
    print STDERR 'listening on 127.0.0.1:', $self->{server}{sock}[0]->sockport, "\n";
}

sub allow_deny_hook { $_[0]{server}{peeraddr} =~ /^127\./ }

# Standard output is the client here, until the module closes it.
sub request_denied_hook { print "Not from there.\n" }

# --- the object of one client; the module's own object stands in for those that were denied, and has no id

sub mux_connection {
    my ($self, $mux, $handle) = @_;
    # Every attempt to connect takes a number, denied ones too.
    $self->{id} = $self->{net_server}{server}{requests};
    $self->{rank} = 'junior';
    $mux->set_timeout($handle, $self->{net_server}{server}{junior_seconds} || JUNIOR_SECONDS);
    to_all($mux, "JOIN: (#$self->{id}) from $self->{peeraddr}\r\n");
    $mux->write($handle, "Welcome, number $self->{id}.\r\n");
}

sub mux_input {
    my ($self, $mux, $handle, $input) = @_;
    return if !defined $self->{id};
    rearm($mux, $handle) if $self->{rank} eq 'senior';
    my $keep_cr = $self->{net_server}{server}{keep_cr};
    while ((my $end = index $$input, "\n") >= 0) {
        my $text = substr $$input, 0, $end + 1, '';
        chop $text;
        $text =~ s/\r\z// if !$keep_cr;
        # False is the empty line, as meant, and the line "0", as in the original.
        next if !$text;
        my $line = "[$self->{id} - $self->{peeraddr}] $text\r\n";
        to_all($mux, $line);
        $mux->write($handle, ' - sent ' . length($line) . " byte message\r\n");
    }
}

sub mux_timeout {
    my ($self, $mux, $handle) = @_;
    if ($self->{rank} eq 'junior') {
        $self->{rank} = 'senior';
        rearm($mux, $handle);
        $mux->write($handle, "You are patient: you may stay as long as you talk.\r\n");
    } else {
        $mux->write($handle, "You do not talk: goodbye.\r\n");
        $mux->shutdown($handle, 2);
    }
}

sub mux_close {
    my ($self, $mux) = @_;
    to_all($mux, "LEFT: (#$self->{id}) from $self->{peeraddr}\r\n") if defined $self->{id};
}

# --- helpers

sub to_all {
    my ($mux, $line) = @_;
    $mux->write($_, $line) for $mux->handles;
}

# The module adds a deadline to those there are: the old one goes first.
sub rearm {
    my ($mux, $handle) = @_;
    $mux->set_timeout($handle, undef);
    $mux->set_timeout($handle, SENIOR_SECONDS);
}
