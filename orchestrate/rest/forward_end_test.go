package rest_test

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	"github.com/minirun/minirun/orchestrate/rest/resttest"
	"github.com/minirun/minirun/orchestrate/stream"
)

// connection opens the two streams of one.
func (h *host) connection(s *stream.Session, id int, port string) *stream.Stream {
	h.t.Helper()
	head := func(kind string) map[string]string {
		return map[string]string{"port": port, "requestID": fmt.Sprint(id), "streamType": kind}
	}
	h.open(s, head("error")).CloseWrite()
	return h.open(s, head("data"))
}

// A pod that reads no more keeps no other connection waiting, and what it says is
// heard.
func TestPortForward_Deaf(t *testing.T) {
	h := newHost(t)
	s := h.spdy("/one/portforward", "portforward.k8s.io")
	much := bytes.Repeat([]byte("0123456789abcdef"), 1<<19)
	for id, port := range []string{"9", "10"} {
		deaf := h.connection(s, id, port)
		written := make(chan struct{})
		go func() {
			defer close(written)
			deaf.Write(much)
		}()
		got, err := io.ReadAll(deaf)
		if want := map[string]string{"9": "bye", "10": resttest.LastWords}[port]; err != nil || string(got) != want {
			t.Errorf("port %s: %d bytes of %d, %v", port, len(got), len(want), err)
		}
		echo := h.connection(s, 10+id, "7")
		go func() {
			echo.Write([]byte("hello"))
			echo.CloseWrite()
		}()
		if got, err := io.ReadAll(echo); err != nil || string(got) != "hello" {
			t.Errorf("beside port %s: %q, %v", port, got, err)
		}
		h.left("connection")
		<-written
	}
}

// Nothing is left of a client that has gone without a word.
func TestPortForward_Gone(t *testing.T) {
	h := newHost(t)
	for _, protocol := range []string{stream.Protocol, stream.OldProtocol} {
		ws, err := stream.Dial(h.conn(), podsPath+"/one/portforward?ports=7", protocol)
		if err != nil {
			t.Fatal(err)
		}
		ws.Writer(0).Write([]byte("x"))
		for range 3 {
			if _, _, err := ws.Read(); err != nil {
				t.Fatal(err)
			}
		}
		ws.Close()
		h.left("connection")
	}
	none(t, "forwardChannels")
}

// none waits until no goroutine is in a function.
func none(t *testing.T, function string) {
	t.Helper()
	buf := make([]byte, 1<<20)
	for deadline := time.Now().Add(testenv.Timeout(20 * time.Second)); ; time.Sleep(time.Millisecond) {
		stacks := string(buf[:runtime.Stack(buf, true)])
		if !strings.Contains(stacks, function) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is left:\n%s", function, stacks)
		}
	}
}

// A client that has gone is noticed although nobody reads what it has sent.
func TestStreams_GoneUnread(t *testing.T) {
	h := newHost(t)
	much := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	var clients []io.Closer
	send := func(c io.Closer, w io.Writer) {
		clients = append(clients, c)
		done := make(chan struct{})
		go func() { // until there is no more room
			defer close(done)
			w.Write(much)
		}()
		select {
		case <-done:
			t.Error("all of it was taken")
		case <-time.After(300 * time.Millisecond): // less time only makes the test weaker
		}
	}
	dial := func(path string) *stream.Conn {
		t.Helper()
		ws, err := stream.Dial(h.conn(), podsPath+path, stream.Protocol)
		if err != nil {
			t.Fatal(err)
		}
		return ws
	}
	ws := dial("/one/exec?command=wait&stdin=true&stdout=true")
	send(ws, ws.Writer(stream.Stdin))
	ws = dial("/one/portforward?ports=11")
	send(ws, ws.Writer(0))
	s := h.spdy("/one/exec?command=wait&stdin=true&stdout=true", stream.OldProtocol)
	h.open(s, map[string]string{"streamType": "error"})
	h.open(s, map[string]string{"streamType": "stdout"})
	send(s, h.open(s, map[string]string{"streamType": "stdin"}))
	s = h.spdy("/one/portforward", "portforward.k8s.io")
	send(s, h.connection(s, 1, "11"))
	for _, c := range clients {
		c.Close()
	}
	ends := map[string]int{}
	for range clients {
		select {
		case what := <-h.gone:
			ends[what]++
		case <-time.After(testenv.Timeout(30 * time.Second)):
			t.Fatalf("the node has learned of %v alone", ends)
		}
	}
	if ends["exec"] != 2 || ends["connection"] != 2 {
		t.Errorf("ended: %v", ends)
	}
}
