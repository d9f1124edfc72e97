package rest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/internal/testenv"
	"github.com/minirun/minirun/orchestrate/stream"
)

func (h *host) conn() net.Conn {
	h.t.Helper()
	c, err := net.Dial("unix", h.path)
	if err != nil {
		h.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(testenv.Timeout(30 * time.Second)))
	return c
}

// spdy asks for an upgrade to SPDY.
func (h *host) spdy(path, protocol string) *stream.Session {
	h.t.Helper()
	c := h.conn()
	r, err := http.NewRequest("POST", "http://minirund"+podsPath+path, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", stream.SPDY)
	r.Header.Set(stream.HeaderProtocol, protocol)
	if err := r.Write(c); err != nil {
		h.t.Fatal(err)
	}
	return h.session(c, func() {
		head := make([]byte, 0, 512)
		for b := []byte{0}; !bytes.HasSuffix(head, []byte("\r\n\r\n")); {
			if _, err := c.Read(b); err != nil {
				h.t.Fatal(err)
			}
			head = append(head, b...)
		}
		if !strings.HasPrefix(string(head), "HTTP/1.1 101 ") {
			h.t.Fatalf("%s", head)
		}
	})
}

// session is the client's end of a session on c.
func (h *host) session(c io.ReadWriteCloser, first func()) *stream.Session {
	if first != nil {
		first()
	}
	s := stream.NewSession(c, nil, true)
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(func(*stream.Stream) {}) })
	h.t.Cleanup(func() { s.Close(); wg.Wait() })
	return s
}

func (h *host) open(s *stream.Session, header map[string]string) *stream.Stream {
	h.t.Helper()
	st, err := s.Open(header)
	if err != nil {
		h.t.Fatal(err)
	}
	return st
}

// TestPortForward: each of the three ways.
func TestPortForward(t *testing.T) {
	h := newHost(t)
	ways := map[string]func() *stream.Session{
		"SPDY": func() *stream.Session { return h.spdy("/one/portforward", "portforward.k8s.io") },
		"a tunnel": func() *stream.Session {
			ws, err := stream.Dial(h.conn(), podsPath+"/one/portforward", stream.Tunnel)
			if err != nil {
				t.Fatal(err)
			}
			return h.session(ws.Bytes(), nil)
		},
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			s := way()
			connect := func(id, port string) (data, errs *stream.Stream) {
				head := map[string]string{"port": port, "requestID": id, "streamType": "error"}
				errs = h.open(s, head)
				errs.CloseWrite()
				head = map[string]string{"port": port, "requestID": id, "streamType": "data"}
				return h.open(s, head), errs
			}
			var wg sync.WaitGroup
			for i := range 3 { // at the same time
				d, errs := connect(fmt.Sprint(i), "7")
				wg.Go(func() {
					d.Write(data)
					d.CloseWrite()
				})
				wg.Go(func() {
					if got, err := io.ReadAll(d); err != nil || !bytes.Equal(got, data) {
						t.Errorf("%d bytes of %d came back: %v", len(got), len(data), err)
					}
					if text, err := io.ReadAll(errs); err != nil || len(text) > 0 {
						t.Errorf("error %q, %v", text, err)
					}
				})
			}
			wg.Wait()
			for range 3 {
				h.left("connection")
			}
			// The pod says it all, and has ended, while we could still write.
			d, _ := connect("a", "9")
			if got, err := io.ReadAll(d); err != nil || string(got) != "bye" {
				t.Errorf("%q, %v", got, err)
			}
			for port, want := range map[string]string{"8": "error forwarding port 8 to pod one: connect to port 8: connection refused", "0": "no number from 1", "x": "no number from 1"} {
				_, errs := connect("b"+port, port)
				if text, err := io.ReadAll(errs); err != nil || !strings.Contains(string(text), want) {
					t.Errorf("port %s: %q, %v", port, text, err)
				}
			}
			// What is no pair is reset, and harms nobody.
			if _, err := io.ReadAll(h.open(s, map[string]string{"port": "7", "requestID": "c", "streamType": "stdin"})); !errors.Is(err, stream.ErrReset) {
				t.Errorf("another kind of stream: %v", err)
			}
			// A client that goes away takes its connections with it.
			d, _ = connect("d", "7")
			d.Write([]byte("x"))
			if _, err := io.ReadFull(d, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			s.Close()
			h.left("connection")
		})
	}
	t.Run("channels", func(t *testing.T) {
		for _, protocol := range []string{stream.Protocol, stream.OldProtocol} {
			ws, err := stream.Dial(h.conn(), podsPath+"/one/portforward?ports=7&ports=8&ports=9", protocol)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				ws.Writer(0).Write(data)
				if protocol == stream.Protocol {
					ws.Write(stream.Close, []byte{0})
				}
			}()
			var got [6]string
			for ends := 0; len(got[0]) < 2+len(data) || len(got[3]) < 3 || len(got[4]) < 5 || protocol == stream.Protocol && ends < 3; {
				channel, data, err := ws.Read()
				if err != nil {
					t.Fatal(err)
				}
				if channel == stream.Close {
					ends++
					continue
				}
				got[channel] += string(data)
			}
			if got[0] != "\x07\x00"+string(data) || got[1] != "\x07\x00" || got[2] != "\x08\x00" || !strings.HasPrefix(got[3], "\x08\x00error forwarding port 8") ||
				got[4] != "\x09\x00bye" || got[5] != "\x09\x00" {
				t.Errorf("%s: %d bytes, %q", protocol, len(got[0]), got[1:])
			}
			ws.Close()
			h.left("connection")
		}
	})
	// What cannot be is a Status before anything is upgraded.
	for path, want := range map[string]int{"/none/portforward": 404, "/one/portforward?ports=x": 400, "/one/portforward?ports=0": 400, "/one/portforward" + "?ports=1" + strings.Repeat("&ports=1", 32): 400} {
		_, err := stream.Dial(h.conn(), podsPath+path, stream.Protocol)
		var answer *stream.AnswerError
		if !errors.As(err, &answer) || answer.Code != want || !strings.Contains(string(answer.Body), `"kind":"Status"`) {
			t.Errorf("%s: %v", path, err)
		}
	}
	h.do("GET", podsPath+"/one/portforward", "", 400)
	h.do("DELETE", podsPath+"/one/portforward", "", 405)
}

// TestExec_SPDY: as kubectl does it before 1.31.
func TestExec_SPDY(t *testing.T) {
	h := newHost(t)
	run := func(query string, in []byte, streams ...string) (out map[string]string, st metav1.Status) {
		t.Helper()
		s := h.spdy("/one/"+query, stream.OldProtocol)
		defer s.Close()
		all := map[string]*stream.Stream{}
		for _, kind := range append(streams, "error") {
			all[kind] = h.open(s, map[string]string{"streamType": kind})
		}
		if c := all["stdin"]; c != nil {
			go func() {
				c.Write(in)
				c.CloseWrite()
			}()
		}
		if c := all["resize"]; c != nil {
			io.WriteString(c, `{"Width":80,"Height":25}`)
		}
		out = map[string]string{}
		for _, kind := range []string{"stdout", "stderr", "error"} {
			if all[kind] == nil {
				continue
			}
			text, err := io.ReadAll(all[kind])
			if err != nil {
				t.Errorf("%s: %v", kind, err)
			}
			out[kind] = string(text)
		}
		if err := json.Unmarshal([]byte(out["error"]), &st); err != nil {
			t.Error(err)
		}
		return out, st
	}
	out, st := run("exec?command=exit&command=7&stdout=true&stderr=true", nil, "stdout", "stderr")
	if out["stdout"] != "out\n" || out["stderr"] != "err\n" || st.Reason != "NonZeroExitCode" || st.Details.Causes[0].Message != "7" {
		t.Errorf("%q, %+v", out, st)
	}
	in := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
	if out, st = run("exec?command=cat&stdin=true&stdout=true", in, "stdin", "stdout"); out["stdout"] != string(in) || st.Status != "Success" {
		t.Errorf("%d bytes of %d, %+v", len(out["stdout"]), len(in), st)
	}
	if out, _ = run("exec?command=size&tty=true&stdout=true", nil, "stdout", "resize"); out["stdout"] != "80x25\n" {
		t.Errorf("%q", out)
	}
	if out, st = run("attach?stdin=true&stdout=true", []byte("hello"), "stdin", "stdout"); out["stdout"] != "attached to one/c\nhello" || st.Status != "Success" {
		t.Errorf("%q, %+v", out, st)
	}
	// Input that the program does not read, and a client that goes.
	if out, _ = run("exec?command=echo&command=x&stdin=true&stdout=true", bytes.Repeat(in, 2), "stdin", "stdout"); out["stdout"] != "x\n" {
		t.Errorf("%q", out)
	}
	s := h.spdy("/one/exec?command=wait&stdout=true", stream.OldProtocol)
	h.open(s, map[string]string{"streamType": "error"})
	if text := make([]byte, 8); true {
		if _, err := io.ReadFull(h.open(s, map[string]string{"streamType": "stdout"}), text); err != nil || string(text) != "waiting\n" {
			t.Errorf("%q, %v", text, err)
		}
	}
	s.Close()
	h.left("exec")
}

// Programs that know only v4 of the channels: their input has no end.
func TestExec_OldChannels(t *testing.T) {
	h := newHost(t)
	ws, err := stream.Dial(h.conn(), podsPath+"/one/exec?command=exit&command=3&stdout=true", stream.OldProtocol)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	for want := range 2 {
		channel, data, err := ws.Read()
		if err != nil || want == 0 && (channel != stream.Stdout || string(data) != "out\n") || want == 1 && (channel != stream.Error || !strings.Contains(string(data), "NonZeroExitCode")) {
			t.Errorf("channel %d: %q, %v", channel, data, err)
		}
	}
}

// TestReviews: who reaches the API may do everything, and nobody else's name.
func TestReviews(t *testing.T) {
	h := newHost(t)
	const access = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
	var r authorizationv1.SelfSubjectAccessReview
	if err := json.Unmarshal([]byte(h.do("POST", access, `{"spec":{"resourceAttributes":{"namespace":"default","verb":"delete","resource":"pods"}}}`, 201)), &r); err != nil {
		t.Fatal(err)
	}
	if !r.Status.Allowed || r.Status.Denied || r.Kind != "SelfSubjectAccessReview" || r.Spec.ResourceAttributes.Verb != "delete" {
		t.Errorf("%+v", r)
	}
	h.do("POST", access, `{"spec":{"nonResourceAttributes":{"path":"/version","verb":"get"}}}`, 201)
	h.do("POST", access, `{"spec":{}}`, 400)
	h.do("POST", access, `[]`, 400)
	h.do("GET", access, "", 405)
	const rules = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
	if got := h.do("POST", rules, `{"spec":{"namespace":"default"}}`, 201); !strings.Contains(got, `"resourceRules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]`) || !strings.Contains(got, `"incomplete":false`) {
		t.Error(got)
	}
	h.do("POST", rules, `{"spec":{}}`, 400)
	if got := h.do("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", `{}`, 201); !strings.Contains(got, `"username":"root"`) {
		t.Error(got)
	}
	if got := h.do("GET", "/apis/authorization.k8s.io/v1", "", 200); !strings.Contains(got, `"name":"selfsubjectaccessreviews"`) {
		t.Error(got)
	}
	req, err := http.NewRequestWithContext(t.Context(), "DELETE", "http://minirund"+podsPath+"/one", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Impersonate-User", "nobody")
	resp, err := h.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 403 {
		t.Errorf("status %d", resp.StatusCode)
	}
	h.do("GET", podsPath+"/one", "", 200)
}

// A page of another site must not use the certificate that a browser has.
func TestForeignOrigin(t *testing.T) {
	h := newHost(t)
	for origin, want := range map[string]int{
		"": 201, "https://127.0.0.1:8001": 201, "http://[::1]:8001": 201, "http://localhost": 201, "https://minirund": 201,
		"https://example.com": 403, "https://example.com:6443": 403, "https://127.0.0.1.example.com": 403, "null": 403, "file://": 403, "%": 403,
	} {
		for _, upgrade := range []bool{false, true} {
			method, path, body, want := http.MethodPost, "/apis/authentication.k8s.io/v1/selfsubjectreviews", "{}", want
			if upgrade && want == 201 {
				want = 101
			}
			if upgrade {
				method, path, body = http.MethodGet, podsPath+"/one/exec?command=echo&stdout=true", ""
			}
			req, err := http.NewRequestWithContext(t.Context(), method, "http://minirund"+path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if upgrade {
				for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "x", "Sec-WebSocket-Protocol": stream.Protocol} {
					req.Header.Set(name, value)
				}
			}
			if origin != "" {
				req.Header.Set("Origin", origin)
			}
			resp, err := h.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("origin %q, upgrade %v: status %d, want %d", origin, upgrade, resp.StatusCode, want)
			}
		}
	}
}
