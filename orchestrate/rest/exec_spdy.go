package rest

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/minirun/minirun/orchestrate/stream"
)

const (
	// streamsIn is how long the streams of a request may take to come.
	streamsIn = 30 * time.Second
	// lastWords is how long a client may take to read what has been sent.
	lastWords = 10 * time.Second
)

// acceptStreams takes a program's client over SPDY, as kubectl is before 1.31: it
// opens a stream for each that it has asked for, and one for the Status.
func acceptStreams(w http.ResponseWriter, q *request, gone func(), in, out, errs, tty bool) (*programLink, error) {
	s, err := stream.AcceptSPDY(w, q.Request, stream.OldProtocol)
	if err != nil {
		return nil, bad("exec and attach over %s: %v", stream.SPDY, err)
	}
	want := map[string]bool{"error": true, "stdin": in, "stdout": out, "stderr": errs && !tty, "resize": tty}
	missing := 0
	for _, yes := range want {
		if yes {
			missing++
		}
	}
	context.AfterFunc(q.Context(), func() { s.Close() })
	var mu sync.Mutex
	have := map[string]*stream.Stream{}
	all := make(chan struct{})
	go func() {
		defer gone()
		defer s.Close()
		_ = s.Serve(func(st *stream.Stream) {
			kind := st.Header["streamtype"]
			mu.Lock()
			defer mu.Unlock()
			if !want[kind] || have[kind] != nil {
				st.Reset()
				return
			}
			have[kind] = st
			if missing--; missing == 0 {
				close(all)
			}
		})
	}()
	select {
	case <-all:
	case <-s.Done():
		return nil, errAnswered
	case <-time.After(streamsIn):
		s.Close()
		return nil, errAnswered
	}
	var st Streams
	if c := have["stdin"]; c != nil {
		st.Stdin = c
	}
	if c := have["stdout"]; c != nil {
		st.Stdout = c
	}
	if c := have["stderr"]; c != nil {
		st.Stderr = c
	}
	var sizes chan WindowSize
	read := make(chan struct{})
	if c := have["resize"]; c != nil {
		sizes = make(chan WindowSize, 1)
		st.Resize = sizes
		go func() {
			defer close(read)
			defer close(sizes)
			for d := json.NewDecoder(c); ; {
				var size WindowSize
				if d.Decode(&size) != nil {
					return
				}
				newest(sizes, size)
			}
		}()
	} else {
		close(read)
	}
	return &programLink{st, func(status []byte) {
		have["error"].Write(status)
		for _, c := range have {
			c.CloseWrite()
			c.CloseRead()
		}
		// The client closes when it has read everything: if we did, it could lose some.
		select {
		case <-s.Done():
		case <-time.After(lastWords):
		}
		s.Close()
		<-s.Done()
		<-read
	}}, nil
}

// newest leaves only the newest size: nobody cares for the others.
func newest(sizes chan WindowSize, size WindowSize) {
	select {
	case <-sizes:
	default:
	}
	sizes <- size
}
