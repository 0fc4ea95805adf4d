// Java's other clients, which know a proxy by host and port and speak no TLS to it. The argument is url, okhttp or apache. Prints what
// the user of the client sees; each sends its credentials only when it is asked for them.

import java.io.IOException;
import java.net.Authenticator;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.PasswordAuthentication;
import java.net.Proxy;
import java.net.URI;
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
    static final String URL = "https://generativelanguage.googleapis.com/v1beta/models";
    static final URI PROXY = URI.create(System.getenv("HTTPS_PROXY"));
    static final String[] USER = PROXY.getUserInfo().split(":", 2);

    public static void main(String[] arguments) throws Exception {
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
        HttpURLConnection connection = (HttpURLConnection) URI.create(URL).toURL().openConnection(proxy());
        connection.setConnectTimeout(15_000);
        connection.setReadTimeout(15_000);
        return connection.getResponseCode();
    }

    static int okhttp() throws IOException {
        OkHttpClient client = new OkHttpClient.Builder()
            .proxy(proxy())
            .proxyAuthenticator((route, response) -> response.request().newBuilder()
                .header("Proxy-Authorization", Credentials.basic(USER[0], USER[1])).build())
            .callTimeout(15, TimeUnit.SECONDS)
            .build();
        try (Response response = client.newCall(new Request.Builder().url(URL).build()).execute()) {
            return response.code();
        }
    }

    // It connects with TLS to a HttpHost with the scheme https.
    static String apache() throws IOException {
        HttpHost proxy = new HttpHost(System.getenv().getOrDefault("PROXY_SCHEME", "http"), PROXY.getHost(), PROXY.getPort());
        BasicCredentialsProvider credentials = new BasicCredentialsProvider();
        credentials.setCredentials(new AuthScope(proxy), new UsernamePasswordCredentials(USER[0], USER[1].toCharArray()));
        HttpClientBuilder builder = HttpClients.custom().setProxy(proxy).setDefaultCredentialsProvider(credentials);
        try (CloseableHttpClient client = builder.build()) {
            return client.execute(new HttpGet(URL), response -> {
                if (response.getCode() != 200) {
                    throw new IOException(response.getCode() + " " + response.getReasonPhrase());
                }
                return "200";
            });
        }
    }
}
