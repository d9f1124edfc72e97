package rest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/internal/testenv"
	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/rest"
	"github.com/minirun/minirun/orchestrate/rest/resttest"
	"github.com/minirun/minirun/orchestrate/store"
	"github.com/minirun/minirun/orchestrate/stream"
)

const podsPath = "/api/v1/namespaces/default/pods"

// host is a server with a node that pretends, on a unix socket.
type host struct {
	t    *testing.T
	path string
	http.Client
	gone chan string
}

func newHost(t *testing.T) *host {
	t.Helper()
	r := api.NewRegistry()
	s, err := store.Open(filepath.Join(t.TempDir(), "store.db"), r.Stored(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, path: filepath.Join(t.TempDir(), "s"), gone: make(chan string, 4)}
	l, err := net.Listen("unix", h.path)
	if err != nil {
		t.Fatal(err)
	}
	server := rest.New(s, r)
	server.Node = &resttest.Node{Gone: h.gone}
	srv := httptest.NewUnstartedServer(server)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", h.path)
	}}
	h.Client = http.Client{Transport: tr}
	t.Cleanup(func() {
		s.Close()
		tr.CloseIdleConnections()
		srv.Close()
	})
	h.do("POST", "/api/v1/namespaces", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"default"}}`, 201)
	h.do("POST", "/api/v1/nodes", `{"apiVersion":"v1","kind":"Node","metadata":{"name":"here"}}`, 201)
	h.do("POST", podsPath, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"one","labels":{"app":"a"}},"spec":{"containers":[{"name":"c","image":"i"}]}}`, 201)
	h.do("POST", podsPath, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"two","labels":{"app":"a"}},"spec":{"containers":[{"name":"c","image":"i"},{"name":"d","image":"i"}]}}`, 201)
	h.do("POST", podsPath, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"new"},"spec":{"containers":[{"name":"c","image":"i"}]}}`, 201)
	return h
}

// do gives the answer's text.
func (h *host) do(method, path, body string, want int, accept ...string) string {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), method, "http://minirund"+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, a := range accept {
		r.Header.Set("Accept", a)
	}
	resp, err := h.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	if resp.StatusCode != want {
		h.t.Fatalf("%s %s: status %d, want %d: %s", method, path, resp.StatusCode, want, text)
	}
	return string(text)
}

func TestLogs(t *testing.T) {
	h := newHost(t)
	if got := h.do("GET", podsPath+"/one/log?tailLines=2", "", 200); got != "one/c two\none/c three\n" {
		t.Errorf("%q", got)
	}
	if got := h.do("GET", podsPath+"/one/log?tailLines=0", "", 200); got != "" {
		t.Errorf("%q", got)
	}
	if got := h.do("GET", podsPath+"/two/log?container=d&timestamps=true&tailLines=1", "", 200); got != "two/d 2026-01-02T03:04:05Z three\n" {
		t.Errorf("%q", got)
	}
	for path, want := range map[string]string{
		"/two/log":                   "a container name must be specified for pod two, choose one of: [c d]",
		"/one/log?container=x":       "container x is not valid for pod one",
		"/one/log?tailLines=x":       "tailLines",
		"/one/log?sinceSeconds=0":    "sinceSeconds",
		"/one/log?run=x":             "run",
		"/one/log?run=1&previous=1":  "previous",
		"/one/log?sinceTime=tuesday": "sinceTime",
	} {
		if got := h.do("GET", podsPath+path, "", 400); !strings.Contains(got, want) {
			t.Errorf("%s: %s", path, got)
		}
	}
	h.do("GET", podsPath+"/none/log", "", 404)
	h.do("GET", podsPath+"/one/log?previous=true", "", 500)
	h.do("POST", podsPath+"/one/log", "", 405)

	// Follow: lines come at once, and the node learns that the client is gone.
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", "http://minirund"+podsPath+"/one/log?follow=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := h.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	text := make([]byte, len("one/c one\none/c two\none/c three\n"))
	if _, err := io.ReadFull(resp.Body, text); err != nil || !strings.HasSuffix(string(text), "three\n") {
		t.Errorf("%q, %v", text, err)
	}
	cancel()
	resp.Body.Close()
	h.left("logs")
}

func (h *host) left(what string) {
	h.t.Helper()
	select {
	case got := <-h.gone:
		if got != what {
			h.t.Errorf("%s has ended, want %s", got, what)
		}
	case <-time.After(testenv.Timeout(20 * time.Second)):
		h.t.Fatal("the node has not learned that the client is gone")
	}
}

// program runs one in a pod, and gives its output by channel and its Status.
func (h *host) program(path string, in []byte, size string) (out [3]string, st metav1.Status, err error) {
	c, err := net.Dial("unix", h.path)
	if err != nil {
		h.t.Fatal(err)
	}
	ws, err := stream.Dial(c, podsPath+path, stream.Protocol)
	if err != nil {
		return out, st, err
	}
	defer ws.Close()
	if size != "" {
		ws.Write(stream.Resize, []byte(size))
	}
	go func() {
		ws.Writer(stream.Stdin).Write(in)
		ws.Write(stream.Close, []byte{stream.Stdin})
	}()
	for {
		channel, data, err := ws.Read()
		switch {
		case errors.Is(err, io.EOF):
			return out, st, nil
		case err != nil:
			return out, st, err
		case channel == stream.Error:
			if err := json.Unmarshal(data, &st); err != nil {
				return out, st, err
			}
		default:
			out[channel] += string(data)
		}
	}
}

func TestExec(t *testing.T) {
	h := newHost(t)
	const all = "&stdout=true&stderr=true"
	out, st, err := h.program("/one/exec?command=exit&command=7"+all, nil, "")
	if err != nil || out[1] != "out\n" || out[2] != "err\n" || st.Reason != "NonZeroExitCode" || st.Details.Causes[0].Message != "7" {
		t.Errorf("%q, %+v, %v", out, st, err)
	}
	out, st, err = h.program("/two/exec?command=echo&command=a&command=b&container=d"+all, nil, "")
	if err != nil || out[1] != "a b\n" || st.Status != "Success" {
		t.Errorf("%q, %+v, %v", out, st, err)
	}
	in := bytes.Repeat([]byte("0123456789abcdef"), 200_000) // more than any buffer on the way
	out, st, err = h.program("/one/exec?command=cat&stdin=true"+all, in, "")
	if err != nil || out[1] != string(in) || st.Status != "Success" {
		t.Errorf("%d bytes of %d came back, %+v, %v", len(out[1]), len(in), st, err)
	}
	out, _, err = h.program("/one/exec?command=size&tty=true&stdout=true", nil, `{"Width":80,"Height":25}`)
	if err != nil || out[1] != "80x25\n" {
		t.Errorf("%q, %v", out, err)
	}
	_, st, err = h.program("/one/exec?command=fail"+all, nil, "")
	if err != nil || st.Status != "Failure" || !strings.Contains(st.Message, "executable file not found") {
		t.Errorf("%+v, %v", st, err)
	}
	out, st, err = h.program("/one/attach?stdin=true&stdout=true", []byte("hello"), "")
	if err != nil || out[1] != "attached to one/c\nhello" || st.Status != "Success" {
		t.Errorf("%q, %+v, %v", out, st, err)
	}
	// What cannot be is a Status before anything is upgraded.
	for path, want := range map[string]int{
		"/none/exec?command=cat" + all: 404, "/two/exec?command=cat" + all: 400, "/one/exec?" + all: 400, "/one/exec?command=cat": 400,
		"/one/exec?command=cat&tty=true" + all: 400, "/one/exec?command=cat&container=x" + all: 400,
	} {
		_, _, err := h.program(path, nil, "")
		var answer *stream.AnswerError
		if !errors.As(err, &answer) || answer.Code != want || !strings.Contains(string(answer.Body), `"kind":"Status"`) {
			t.Errorf("%s: %v", path, err)
		}
	}
	h.do("GET", podsPath+"/one/exec?command=cat"+all, "", 400) // no upgrade

	// A client that goes away.
	c, err := net.Dial("unix", h.path)
	if err != nil {
		t.Fatal(err)
	}
	ws, err := stream.Dial(c, podsPath+"/one/exec?command=wait&stdin=true&stdout=true", stream.Protocol)
	if err != nil {
		t.Fatal(err)
	}
	if _, data, err := ws.Read(); err != nil || string(data) != "waiting\n" {
		t.Errorf("%q, %v", data, err)
	}
	ws.Close()
	h.left("exec")
}

func TestEvictionAndBinding(t *testing.T) {
	h := newHost(t)
	h.do("POST", podsPath+"/one/binding", `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"one"},"target":{"kind":"Node","name":"elsewhere"}}`, 404)
	h.do("POST", podsPath+"/one/binding", `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"one"},"target":{"kind":"Node","name":"here"}}`, 201)
	h.do("POST", podsPath+"/one/binding", `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"one"},"target":{"kind":"Node","name":"here"}}`, 409)
	h.do("POST", podsPath+"/one/eviction", `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"two"}}`, 400)
	h.do("POST", podsPath+"/one/eviction", `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"one"},"deleteOptions":{"gracePeriodSeconds":7}}`, 201)
	if got := h.do("GET", podsPath+"/one", "", 200); !strings.Contains(got, `"deletionGracePeriodSeconds":7`) {
		t.Error(got)
	}
	h.do("POST", podsPath+"/none/eviction", `{}`, 404)
	h.do("GET", podsPath+"/one/eviction", "", 405)

	// Collections.
	if got := h.do("DELETE", podsPath+"?labelSelector=app%3Da&dryRun=All", "", 200); !strings.Contains(got, `"name":"two"`) {
		t.Error(got)
	}
	h.do("DELETE", "/api/v1/pods", "", 405)
	h.do("DELETE", podsPath+"?labelSelector=app%3Da", `{"gracePeriodSeconds":0}`, 200)
	got := h.do("GET", podsPath, "", 200)
	if strings.Contains(got, `"name":"two"`) || !strings.Contains(got, `"name":"new"`) {
		t.Error(got)
	}
}

func TestMetrics(t *testing.T) {
	h := newHost(t)
	const path = "/apis/metrics.k8s.io/v1beta1"
	if got := h.do("GET", path+"/nodes", "", 200); !strings.Contains(got, `"usage":{"cpu":"1500m","memory":"1Gi"}`) || !strings.Contains(got, `"name":"here"`) {
		t.Error(got)
	}
	got := h.do("GET", path+"/pods?labelSelector=app%3Da", "", 200)
	if !strings.Contains(got, `"containers":[{"name":"c","usage":{"cpu":"250m","memory":"20Mi"}}]`) || strings.Contains(got, `"name":"new"`) {
		t.Error(got)
	}
	h.do("GET", path+"/namespaces/default/pods/one", "", 200)
	h.do("GET", path+"/namespaces/default/pods/none", "", 404)
	h.do("GET", path+"/nodes/elsewhere", "", 404)
	h.do("DELETE", path+"/nodes", "", 405)
	h.do("GET", path, "", 200)
}

const asTable = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"

func TestTable(t *testing.T) {
	h := newHost(t)
	var table metav1.Table
	if err := json.Unmarshal([]byte(h.do("GET", podsPath+"?labelSelector=app%3Da", "", 200, asTable)), &table); err != nil {
		t.Fatal(err)
	}
	if table.Kind != "Table" || len(table.ColumnDefinitions) != 9 || len(table.Rows) != 2 || fmt.Sprint(table.Rows[1].Cells[:4]) != "[two 0/2 Pending 0]" ||
		!strings.Contains(string(table.Rows[0].Object.Raw), `"kind":"PartialObjectMetadata"`) || table.ResourceVersion == "" {
		t.Errorf("%+v", table)
	}
	if got := h.do("GET", podsPath+"/one?includeObject=Object", "", 200, asTable); !strings.Contains(got, `"kind":"Pod"`) || !strings.Contains(got, `"kind":"Table"`) {
		t.Error(got)
	}
	// A watch: the titles come once.
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://minirund"+podsPath+"?watch=true&fieldSelector=metadata.name%3Done", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", asTable)
	resp, err := h.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := json.NewDecoder(resp.Body)
	for i, want := range []string{"ADDED", "DELETED"} {
		if i == 1 {
			h.do("DELETE", podsPath+"/one", "", 200)
		}
		var e struct {
			Type   string
			Object metav1.Table
		}
		if err := lines.Decode(&e); err != nil {
			t.Fatal(err)
		}
		if e.Type != want || len(e.Object.Rows) != 1 || e.Object.Rows[0].Cells[0] != "one" || (len(e.Object.ColumnDefinitions) > 0) != (i == 0) {
			t.Errorf("%+v", e)
		}
	}
}
