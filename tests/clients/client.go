// The Go client: net/http as it comes, with the proxy from HTTPS_PROXY and the CA from SSL_CERT_FILE, as Go reads them itself.
// Prints the reply and how the stream arrived; never more than a few seconds.
package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

const model = "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash"

func main() {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	// One configuration for both hops: the API may ask for the certificate too.
	if file := os.Getenv("CLIENT_CERTIFICATE"); file != "" {
		certificate, err := tls.LoadX509KeyPair(file, os.Getenv("CLIENT_KEY"))
		if err != nil {
			fail(err)
		}
		transport.TLSClientConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
	}
	client := &http.Client{Timeout: 15 * time.Second, Transport: transport}
	if err := reply(client); err != nil {
		fail(err)
	}
	if err := stream(client); err != nil {
		fail(err)
	}
}

func reply(client *http.Client) error {
	response, err := client.Post(model+":generateContent", "application/json", strings.NewReader("{}"))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var body struct {
		Candidates []struct {
			Content struct {
				Parts []struct{ Text string }
			}
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
		return err
	}
	if len(body.Candidates) == 0 {
		return fmt.Errorf("no candidate: %s", response.Status)
	}
	fmt.Println("reply:", body.Candidates[0].Content.Parts[0].Text)
	return nil
}

func stream(client *http.Client) error {
	response, err := client.Post(model+":streamGenerateContent?alt=sse", "application/json", strings.NewReader("{}"))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var first, last time.Time
	events := 0
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "data:") {
			last = time.Now()
			if events == 0 {
				first = last
			}
			events++
		}
	}
	fmt.Printf("stream: %d events over %d ms\n", events, last.Sub(first).Milliseconds())
	return lines.Err()
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
