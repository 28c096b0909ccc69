# LWP over one kept connection, then straight into a file: URL FILE
use strict;
use warnings;
use LWP::UserAgent;

my ($url, $path) = @ARGV;
my $agent = LWP::UserAgent->new(keep_alive => 1, timeout => 60);
my $small = $url =~ s/big$/small/r;
for (1 .. 5) {
    my $answer = $agent->get($small);
    die $answer->status_line unless $answer->is_success && length($answer->content) == 100_000;
}
my $answer = $agent->get($url, ':content_file' => $path);
die $answer->status_line unless $answer->is_success;
