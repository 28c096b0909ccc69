import java.net.URI;
import java.net.URL;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;

/** HttpClient (NIO selectors), then URLConnection (blocking): URL FILE OTHER-FILE */
class HttpGet {
    public static void main(String[] args) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        HttpRequest request = HttpRequest.newBuilder(URI.create(args[0])).build();
        int status = client.send(request, BodyHandlers.ofFile(Path.of(args[1]))).statusCode();
        if (status != 200) {
            throw new IllegalStateException("status " + status);
        }
        try (InputStream body = new URL(args[0]).openStream()) {
            Files.copy(body, Path.of(args[2]));
        }
    }
}
