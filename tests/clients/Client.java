// The Java client: java.net.http.HttpClient with the proxy's credentials from an Authenticator, as its manual says. The argument
// is HTTP_1_1 or HTTP_2; with a second one, alone, it uses what the JVM's properties say. Prints the reply and how the stream
// arrived. Java reads neither HTTPS_PROXY nor SSL_CERT_FILE.

import java.net.Authenticator;
import java.net.InetSocketAddress;
import java.net.PasswordAuthentication;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandler;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

public class Client {
    static final String MODEL = "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash";
    static final Duration TIMEOUT = Duration.ofSeconds(15);

    public static void main(String[] arguments) throws Exception {
        HttpClient.Builder builder = HttpClient.newBuilder()
            .version(HttpClient.Version.valueOf(arguments[0]))
            .connectTimeout(TIMEOUT);
        if (arguments.length == 1) {
            URI proxy = URI.create(System.getenv("HTTPS_PROXY"));
            builder.proxy(ProxySelector.of(new InetSocketAddress(proxy.getHost(), proxy.getPort())))
                .authenticator(credentials(proxy.getUserInfo().split(":", 2)));
        }
        HttpClient client = builder.build();
        String body = post(client, ":generateContent", BodyHandlers.ofString());
        Matcher text = Pattern.compile("\"text\": \"([^\"]*)\"").matcher(body);
        System.out.println(text.find() ? "reply: " + text.group(1) : body);

        long[] arrivals = post(client, ":streamGenerateContent?alt=sse", BodyHandlers.ofLines())
            .filter(line -> line.startsWith("data:"))
            .mapToLong(line -> System.nanoTime())
            .toArray();
        long spread = arrivals.length == 0 ? 0 : (arrivals[arrivals.length - 1] - arrivals[0]) / 1_000_000;
        System.out.println("stream: " + arrivals.length + " events over " + spread + " ms");
    }

    static <T> T post(HttpClient client, String method, BodyHandler<T> handler) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(MODEL + method))
            .timeout(TIMEOUT)
            .POST(BodyPublishers.ofString("{}"))
            .build();
        return client.send(request, handler).body();
    }

    static Authenticator credentials(String[] userInfo) {
        return new Authenticator() {
            @Override
            protected PasswordAuthentication getPasswordAuthentication() {
                return new PasswordAuthentication(userInfo[0], userInfo[1].toCharArray());
            }
        };
    }
}
