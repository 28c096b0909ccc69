# Net::HTTP with one kept connection: HOST PATH FILE
require "net/http"

host, resource, path = ARGV
Net::HTTP.start(host, 80, read_timeout: 60) do |http|
  length = http.head(resource)["content-length"].to_i
  half = length / 2
  File.open(path, "wb") do |file|
    file.write(http.get(resource, "Range" => "bytes=0-#{half - 1}").body)
    request = Net::HTTP::Get.new(resource, "Range" => "bytes=#{half}-")
    http.request(request) { |answer| answer.read_body { |piece| file.write(piece) } }
  end
end
