package registrytest

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Fault is something that goes wrong. The first one that fits a request counts.
// Offsets are of the whole content, also where a part of it was asked for.
type Fault struct {
	Method string // GET if empty
	Path   string // what the request's path contains
	Times  int    // how often; 0: always
	After  int    // how many requests that fit are served well before
	Tagged string // fits only requests whose Range header contains this

	Status      int                 // answer with this
	Header      map[string]string   // and these headers
	Body        string              // and this body
	RedirectTo  string              // answer with 307 to this place, or to its own path there if it ends in no path
	Cut         int                 // close the connection after so many bytes; of an upload: read no more
	Chunked     bool                // no Content-Length
	Stall       int                 // send so many bytes and then nothing
	StallHead   bool                // send nothing at all
	Drip        time.Duration       // a byte each time
	Flip        int                 // change the byte at this offset (from 1)
	Length      int                 // claim that the body is so many bytes longer, or shorter
	Endless     bool                // go on after the end, without a Content-Length
	NoRange     bool                // send all of it, whatever was asked for
	Part        string              // the Content-Range of a part; "none": without one
	ContentType string              // of a manifest
	Do          func(*http.Request) // called for each request that fits
}

// Fail adds a fault.
func (s *Server) Fail(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Method == "" {
		f.Method = http.MethodGet
	}
	if f.Times == 0 {
		f.Times = -1
	}
	s.faults = append(s.faults, &f)
}

// Heal removes all faults.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

func (s *Server) fault(r *http.Request) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.faults {
		if f.Times == 0 || f.Method != r.Method || !strings.Contains(r.URL.Path, f.Path) || !strings.Contains(r.Header.Get("Range"), f.Tagged) {
			continue
		}
		if f.After > 0 {
			f.After--
			continue
		}
		if f.Times > 0 {
			f.Times--
		}
		return f
	}
	return nil
}

// before answers in place of the registry, or returns false.
func (f *Fault) before(s *Server, w http.ResponseWriter, r *http.Request) bool {
	if f.Do != nil {
		f.Do(r)
	}
	for name, v := range f.Header {
		w.Header().Set(name, v)
	}
	switch {
	case f.StallHead:
		s.hang(r)
	case f.RedirectTo != "":
		to := f.RedirectTo
		if strings.HasSuffix(to, "/") {
			to = strings.TrimSuffix(to, "/") + r.URL.Path
		}
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusTemporaryRedirect)
	case f.Status != 0:
		w.WriteHeader(f.Status)
		_, _ = w.Write([]byte(f.Body))
	default:
		return false
	}
	return true
}

// hang waits until the client or the server has gone.
func (s *Server) hang(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-s.down:
	}
	panic(http.ErrAbortHandler)
}

// send sends b, which begins at off of the whole, as the fault says.
func (f *Fault) send(s *Server, w http.ResponseWriter, r *http.Request, status int, b []byte, off int, count *atomic.Int64) {
	upTo := func(n int) []byte { return b[:min(max(n-off, 0), len(b))] }
	if at := f.Flip - 1 - off; f.Flip > 0 && at >= 0 && at < len(b) {
		b = bytes.Clone(b)
		b[at] ^= 0x10
	}
	if !f.Chunked && !f.Endless {
		w.Header().Set("Content-Length", strconv.Itoa(len(b)+f.Length))
	}
	w.WriteHeader(status)
	flush := w.(http.Flusher).Flush
	switch {
	case f.Cut > 0:
		s.write(w, upTo(f.Cut), count)
		flush()
		panic(http.ErrAbortHandler)
	case f.Stall > 0:
		s.write(w, upTo(f.Stall), count)
		flush()
		s.hang(r)
	case f.Drip > 0:
		for i := range b {
			s.write(w, b[i:i+1], count)
			flush()
			select {
			case <-time.After(f.Drip):
			case <-r.Context().Done():
				return
			case <-s.down:
				return
			}
		}
	case f.Length < 0:
		s.write(w, b[:len(b)+f.Length], count)
	default:
		s.write(w, b, count)
		for f.Endless && r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 32<<10)); err != nil {
				return
			}
		}
	}
}
