import java.net.URI;
import java.net.URLConnection;

/** Gets the bytes of halting.py; a read may take three seconds. */
public class Patience {
    public static void main(String[] given) throws Exception {
        URLConnection connection = URI.create(given[0]).toURL().openConnection();
        connection.setReadTimeout(3000);
        int count = connection.getInputStream().readAllBytes().length;
        if (count != 40000) throw new Exception(count + " bytes");
    }
}
