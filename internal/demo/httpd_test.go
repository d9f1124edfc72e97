package demo

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startHTTPD runs the server on a free loopback port and ends it with the test.
func startHTTPD(t *testing.T, args ...string) (addr string, cmd *exec.Cmd) {
	t.Helper()
	cmd = command(t, "httpd", append([]string{"-p", "0", "-a", "127.0.0.1"}, args...)...)
	cmd.Env = []string{"VERSION=from-env"}
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("httpd says nothing: %v", err)
	}
	var port int
	if _, err := fmt.Sscanf(line, "listening on port %d\n", &port); err != nil {
		t.Fatalf("httpd says %q: %v", line, err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port), cmd
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func TestHTTPD_Get(t *testing.T) {
	addr, cmd := startHTTPD(t)
	host, _ := os.Hostname()
	client := &http.Client{Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	tests := []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/", "host: " + host + "\nversion: from-env\n", 200},
		{"GET", "/?a=b", "host: " + host + "\nversion: from-env\n", 200},
		{"HEAD", "/", "", 200},
		{"GET", "/other", "404 Not Found\n", 404},
		{"DELETE", "/", "405 Method Not Allowed\n", 405},
	}
	for _, tt := range tests {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://"+addr+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", tt.method, tt.path, err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tt.status || string(body) != tt.body {
			t.Errorf("%s %s: %d %q (%v), want %d %q", tt.method, tt.path, resp.StatusCode, body, err, tt.status, tt.body)
		}
	}
	stop(t, cmd)
}

// stop sends SIGTERM and wants status 0 within five seconds.
func stop(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	start := time.Now()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v, want status 0", err)
	}
	if d := time.Since(start); d > stopGrace-time.Second {
		t.Errorf("took %v to stop", d)
	}
}

func TestHTTPD_Version(t *testing.T) {
	addr, _ := startHTTPD(t, "-v", "v7")
	resp, err := http.Get("http://" + addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); !strings.HasSuffix(string(body), "\nversion: v7\n") {
		t.Errorf("got %q, want version v7", body)
	}
}

func TestHTTPD_Raw(t *testing.T) {
	addr, _ := startHTTPD(t)
	long := strings.Repeat("x", 2*maxHeader)
	tests := []struct{ name, send, status string }{
		{"1.0", "GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK"},
		{"bare newlines", "GET / HTTP/1.0\n\n", "HTTP/1.1 200 OK"},
		{"leading empty line", "\r\nGET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK"},
		{"no host", "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"garbage", "\x16\x03\x01\x02garbage\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"no version", "GET /\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"version", "GET / HTTP/3.0\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"target", "GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"header", "GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"header name", "GET / HTTP/1.1\r\nHost : x\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"too long", "GET /" + long + " HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 431 "},
		{"endless", "GET / HTTP/1.1\r\nA: " + long, "HTTP/1.1 431 "},
		{"body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("b", 100000), "HTTP/1.1 405 "},
		{"body is no request", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 18\r\n\r\nGET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, addr)
			if _, err := io.WriteString(c, tt.send); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(c)
			if err != nil || !strings.HasPrefix(string(answer), tt.status) || !strings.Contains(string(answer), "\r\nConnection: close\r\n") {
				t.Errorf("got %q (%v), want %q and the connection closed", answer, err, tt.status)
			}
			if n := strings.Count(string(answer), "HTTP/1.1 "); n != 1 {
				t.Errorf("%d answers to one request: %q", n, answer)
			}
		})
	}
	t.Run("half a request", func(t *testing.T) {
		c := dial(t, addr)
		_, _ = io.WriteString(c, "GET / HT")
		_ = c.(*net.TCPConn).CloseWrite()
		if answer, _ := io.ReadAll(c); !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
			t.Errorf("got %q, want 400", answer)
		}
	})
	t.Run("pipelined", func(t *testing.T) {
		c := dial(t, addr)
		const n = 200 // more than one turn of the loop handles
		send := strings.Repeat("GET / HTTP/1.1\r\nHost: x\r\n\r\n", n-1) + "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
		if _, err := io.WriteString(c, send); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(c)
		if got := strings.Count(string(answer), "HTTP/1.1 200 OK"); got != n || err != nil {
			t.Errorf("%d answers (%v), want %d", got, err, n)
		}
	})
}

// TestHTTPD_Slow: clients that dawdle are ended by the timeout and do not
// keep others from being served.
func TestHTTPD_Slow(t *testing.T) {
	addr, cmd := startHTTPD(t, "-t", "0.6")
	silent, dribbling := dial(t, addr), dial(t, addr)
	go func() {
		for _, b := range []byte("GET / HTTP/1.1\r\nHost: a-name-that-takes-its-time\r\n") {
			if _, err := dribbling.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get("http://" + addr + "/")
	if err != nil {
		t.Fatalf("a third client while two are slow: %v", err)
	}
	resp.Body.Close()
	if answer, err := io.ReadAll(silent); len(answer) != 0 || err != nil {
		t.Errorf("silent client got %q (%v), want the end of the connection", answer, err)
	}
	if answer, _ := io.ReadAll(dribbling); !strings.HasPrefix(string(answer), "HTTP/1.1 408 ") {
		t.Errorf("dribbling client got %q, want 408", answer)
	}
	client.CloseIdleConnections()
	stop(t, cmd)
}

// TestHTTPD_Many: more connections than it takes at once; all are served.
func TestHTTPD_Many(t *testing.T) {
	addr, cmd := startHTTPD(t, "-t", "0.5")
	var held []net.Conn
	for range maxConns + 20 {
		held = append(held, dial(t, addr))
	}
	c := dial(t, addr)
	_, _ = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
	if answer, err := io.ReadAll(c); !strings.HasPrefix(string(answer), "HTTP/1.1 200 OK") {
		t.Errorf("behind %d silent connections: got %q (%v)", len(held), answer, err)
	}
	stop(t, cmd)
}

// TestHTTPD_Drain: a request in progress at SIGTERM is answered, an idle
// connection is closed, a new one refused, and the end is soon and with 0.
func TestHTTPD_Drain(t *testing.T) {
	addr, cmd := startHTTPD(t)
	idle, busy := dial(t, addr), dial(t, addr)
	// A served request proves that both connections have been accepted and read.
	_, _ = io.WriteString(busy, "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n")
	if _, err := http.ReadResponse(bufio.NewReader(busy), nil); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(idle); len(b) != 0 || err != nil {
		t.Errorf("idle connection got %q (%v), want its end", b, err)
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("a connection after SIGTERM was accepted")
	}
	_, _ = io.WriteString(busy, "Host: x\r\n\r\n")
	answer, err := io.ReadAll(busy)
	if !strings.Contains(string(answer), "HTTP/1.1 200 OK") || !strings.Contains(string(answer), "Connection: close") {
		t.Errorf("request in progress got %q (%v), want an answer", answer, err)
	}
	busy.Close()
	stopped := make(chan error, 1)
	go func() { stopped <- cmd.Wait() }()
	select {
	case err := <-stopped:
		if err != nil {
			t.Errorf("ended with %v, want status 0", err)
		}
	case <-time.After(stopGrace - time.Second):
		t.Error("still running")
		_ = cmd.Process.Kill()
		<-stopped
	}
}

// TestHTTPD_DrainGrace: a request that never ends does not keep it alive.
func TestHTTPD_DrainGrace(t *testing.T) {
	addr, cmd := startHTTPD(t, "-t", "60")
	c := dial(t, addr)
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / ")
	if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v, want status 0", err)
	}
	if d := time.Since(start); d < stopGrace/2 || d > stopGrace+5*time.Second {
		t.Errorf("ended %v after SIGTERM, want about %v", d, stopGrace)
	}
}

// TestHTTPD_Load: answers under concurrency, and none is lost.
func TestHTTPD_Load(t *testing.T) {
	addr, cmd := startHTTPD(t)
	var wg sync.WaitGroup
	errs := make(chan error, 20)
	for range 20 {
		wg.Go(func() {
			c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{}}
			defer c.CloseIdleConnections()
			for range 20 {
				resp, err := c.Get("http://" + addr + "/")
				if err != nil {
					errs <- err
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	stop(t, cmd)
}

func TestHTTPD_Listen(t *testing.T) {
	for _, bad := range [][]string{{"-a", "1.2.3"}, {"-a", "1.2.3.4.5"}, {"-a", "host"}, {"-a", "256.0.0.1"}, {"-a", "203.0.113.7"}} {
		stdout, stderr, code := run(t, command(t, "httpd", append(bad, "-p", "0")...))
		if code != 1 || stdout != "" || !strings.Contains(stderr, "listen on "+bad[1]) {
			t.Errorf("httpd %v: status %d, %q, %q, want 1 and the address", bad, code, stdout, stderr)
		}
	}
	addr, _ := startHTTPD(t)
	_, port, _ := net.SplitHostPort(addr)
	if _, stderr, code := run(t, command(t, "httpd", "-a", "127.0.0.1", "-p", port)); code != 1 || !strings.Contains(stderr, "address already in use") {
		t.Errorf("port in use: status %d, %q", code, stderr)
	}
	for _, bad := range [][]string{{"-p", "65536"}, {"-p", "x"}, {"-t", "0"}, {"x"}} {
		if _, _, code := run(t, command(t, "httpd", bad...)); code != 2 {
			t.Errorf("httpd %v: status %d, want 2", bad, code)
		}
	}
}
