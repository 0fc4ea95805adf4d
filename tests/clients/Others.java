// Java's other clients, which know a proxy by host and port and speak no TLS to it. The argument is url, okhttp or apache. Prints what
// the user of the client sees; each sends its credentials only when it is asked for them. With a second argument, alone, they use
// what the JVM's properties say.

import java.io.IOException;
import java.net.Authenticator;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.PasswordAuthentication;
import java.net.Proxy;
import java.net.URI;
import java.net.URL;
import java.util.concurrent.TimeUnit;
import okhttp3.Credentials;
import okhttp3.OkHttpClient;
import okhttp3.Request;
import okhttp3.Response;
import org.apache.hc.client5.http.auth.AuthScope;
import org.apache.hc.client5.http.auth.UsernamePasswordCredentials;
import org.apache.hc.client5.http.classic.methods.HttpGet;
import org.apache.hc.client5.http.impl.auth.BasicCredentialsProvider;
import org.apache.hc.client5.http.impl.classic.CloseableHttpClient;
import org.apache.hc.client5.http.impl.classic.HttpClientBuilder;
import org.apache.hc.client5.http.impl.classic.HttpClients;
import org.apache.hc.core5.http.HttpHost;

public class Others {
    static final String MODELS = "https://generativelanguage.googleapis.com/v1beta/models";
    static final URI PROXY = URI.create(System.getenv("HTTPS_PROXY"));
    static final String[] USER = String.valueOf(PROXY.getUserInfo()).split(":", 2);
    static boolean alone;

    public static void main(String[] arguments) throws Exception {
        alone = arguments.length > 1;
        System.out.println("reply: " + switch (arguments[0]) {
            case "url" -> url();
            case "okhttp" -> okhttp();
            default -> apache();
        });
    }

    static Proxy proxy() {
        return new Proxy(Proxy.Type.HTTP, new InetSocketAddress(PROXY.getHost(), PROXY.getPort()));
    }

    static int url() throws IOException {
        Authenticator.setDefault(new Authenticator() {
            @Override
            protected PasswordAuthentication getPasswordAuthentication() {
                return new PasswordAuthentication(USER[0], USER[1].toCharArray());
            }
        });
        URL url = URI.create(MODELS).toURL();
        HttpURLConnection connection = (HttpURLConnection) (alone ? url.openConnection() : url.openConnection(proxy()));
        connection.setConnectTimeout(15_000);
        connection.setReadTimeout(15_000);
        return connection.getResponseCode();
    }

    static int okhttp() throws IOException {
        OkHttpClient.Builder builder = new OkHttpClient.Builder().callTimeout(15, TimeUnit.SECONDS);
        if (!alone) {
            builder.proxy(proxy()).proxyAuthenticator((route, response) -> response.request().newBuilder()
                .header("Proxy-Authorization", Credentials.basic(USER[0], USER[1])).build());
        }
        OkHttpClient client = builder.build();
        try (Response response = client.newCall(new Request.Builder().url(MODELS).build()).execute()) {
            return response.code();
        }
    }

    // It connects with TLS to a HttpHost with the scheme https.
    static String apache() throws IOException {
        return get(alone ? HttpClients.custom().useSystemProperties() : withCredentials());
    }

    static HttpClientBuilder withCredentials() {
        HttpHost proxy = new HttpHost(System.getenv().getOrDefault("PROXY_SCHEME", "http"), PROXY.getHost(), PROXY.getPort());
        BasicCredentialsProvider credentials = new BasicCredentialsProvider();
        credentials.setCredentials(new AuthScope(proxy), new UsernamePasswordCredentials(USER[0], USER[1].toCharArray()));
        return HttpClients.custom().setProxy(proxy).setDefaultCredentialsProvider(credentials);
    }

    static String get(HttpClientBuilder builder) throws IOException {
        try (CloseableHttpClient client = builder.build()) {
            return client.execute(new HttpGet(MODELS), response -> {
                if (response.getCode() != 200) {
                    throw new IOException(response.getCode() + " " + response.getReasonPhrase());
                }
                return "200";
            });
        }
    }
}
