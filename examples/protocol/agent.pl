#!/usr/bin/perl
# Counts words, without any ZeroMQ library: capability `count_words`. ZMTP 3.0 (rfc.zeromq.org/spec/23) over TCP, with
# modules that come with Perl. It promises no heartbeat, so the registry never holds its silence against it.
use strict;
use warnings;
use IO::Socket::INET;
use JSON::PP;

my $name = $ENV{TANDEM_AGENT_NAME} || 'perl-counter';
my $health_port = 0 + ($ENV{TANDEM_HEALTH_PORT} || 0);
my $registry = ($ENV{TANDEM_SERVICES} || '') =~ /CoreOrchestrator=(\d+)/ ? "127.0.0.1:$1" : '127.0.0.1:7000';
my $pid = $$;
my $boot = "$pid-$^T";
my $json = JSON::PP->new->utf8;

# ZMTP: both sides greet and name their socket type; then frames go both ways. Flags: 1 more follow, 2 long, 4 command.

sub take {
    my ($peer, $count) = @_;
    my $bytes = '';
    while (length $bytes < $count) {
        read($peer, $bytes, $count - length $bytes, length $bytes) or die "the peer is gone\n";
    }
    return $bytes;
}

sub take_frame {
    my ($peer) = @_;
    my $flags = ord take($peer, 1);
    my $size = $flags & 2 ? unpack 'Q>', take($peer, 8) : ord take($peer, 1);
    die "a frame of $size bytes\n" if $size > 64 * 2**20;
    return ($flags, take($peer, $size));
}

sub take_message {
    my ($peer) = @_;
    my @frames;
    while (1) {
        my ($flags, $frame) = take_frame($peer);
        next if $flags & 4;
        push @frames, $frame;
        return @frames unless $flags & 1;
    }
}

sub send_message {
    my ($peer, @frames) = @_;
    while (defined(my $frame = shift @frames)) {
        my $more = @frames ? 1 : 0;
        print $peer length $frame > 255 ? pack('CQ>', $more | 2, length $frame) : pack('CC', $more, length $frame), $frame;
    }
}

sub shake_hands {
    my ($peer, $type) = @_;
    print $peer "\xFF", "\0" x 8, "\x7F", "\x03\x00", pack('a20', 'NULL'), "\0" x 32;
    take($peer, 64);
    print $peer "\x04", pack('C/a*', "\x05READY\x0BSocket-Type" . pack('N/a*', $type));
    take_frame($peer);
}

# The agent: one JSON object in, one JSON object out.

sub health {
    my %health = (status => 'ok', ready => JSON::PP::true, service => $name, version => '1');
    return {%health, uptime => time - $^T, boot => $boot};
}

sub error {
    my ($code, $text) = @_;
    return {status => 'error', code => $code, error => $text, message => $text, retryable => JSON::PP::false};
}

sub answer {
    my ($frame) = @_;
    return health() if $frame eq 'ping' || $frame eq 'health';
    my $call = eval { $json->decode($frame) };
    return error('bad_request', 'send one JSON object with `action`') unless ref $call eq 'HASH' && defined $call->{action};
    my $action = $call->{action};
    return health() if $action eq 'ping' || $action eq 'health_check';
    return error('unknown_verb', "no verb $action here") unless $action eq 'count_words';
    return error('bad_request', '`data` is not a text') if !defined $call->{data} || ref $call->{data};
    my @words = split ' ', $call->{data};
    return {status => 'success', words => scalar @words};
}

sub register {
    my ($port) = @_;
    my $peer = IO::Socket::INET->new(PeerAddr => $registry, Timeout => 2) or die "nobody listens at $registry\n";
    local $SIG{ALRM} = sub { die "the registry does not answer\n" };
    alarm 5;
    shake_hands($peer, 'DEALER');
    my %where = (host => '127.0.0.1', port => $port, health_check_port => $health_port);
    my %who = (agent_name => $name, pid => $pid, boot => $boot, location => $ENV{TANDEM_HOST} || '');
    my %what = (capabilities => ['count_words'], idempotent => ['count_words']);
    send_message($peer, $json->encode({action => 'register_agent', %who, %where, %what}));
    my $reply = $json->decode((take_message($peer))[-1]);
    alarm 0;
    die "$reply->{message}\n" if $reply->{status} ne 'success';
}

sub serve {
    my ($peer) = @_;
    shake_hands($peer, 'REP');
    while (1) {
        my @frames = take_message($peer);
        my $body = pop @frames;
        send_message($peer, @frames, $json->encode(answer($body)));
    }
}

sub listener {
    my ($port) = @_;
    my %at = (LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 64, ReuseAddr => 1);
    return IO::Socket::INET->new(%at) || die "cannot listen on port $port: $@\n";
}

# A process of its own for each connection, and one that registers, so that nothing waits for anything else.

sub aside {
    my ($work) = @_;
    return if fork;
    $SIG{TERM} = $SIG{INT} = 'DEFAULT';
    $work->();
    exit 0;
}

sub accept_all {
    my ($listener) = @_;
    while (1) {
        my $peer = $listener->accept or next;
        aside(sub { eval { serve($peer) } });
    }
}

my $requests = listener($ENV{TANDEM_PORT} || 0);
my $checks = $health_port && listener($health_port);
setpgrp;
$SIG{CHLD} = 'IGNORE';
$SIG{TERM} = $SIG{INT} = sub { $SIG{TERM} = 'IGNORE'; kill TERM => 0; exit 0 };
aside(sub { warn($@), sleep 1 until eval { register($requests->sockport); 1 } });
aside(sub { accept_all($checks) }) if $checks;
accept_all($requests);
