package stream

import (
	"encoding/binary"
	"time"
)

// pingEvery is how often who serves writes something to the other side. Its end is
// seen by reading, but not while nobody takes what it has sent before.
const pingEvery = 5 * time.Second

// watch pings until that fails, which it tells gone, or until stop is called.
func watch(ping func() error, gone func()) (stop func()) {
	over := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(pingEvery)
		defer t.Stop()
		for {
			select {
			case <-over:
				return
			case <-t.C:
			}
			if ping() != nil {
				gone()
				return
			}
		}
	}()
	return func() {
		close(over)
		<-ended
	}
}

// Watch calls gone when the other side has gone, also while nobody reads. stop ends
// that, and has to be called when the connection was closed.
func (c *Conn) Watch(gone func()) (stop func()) {
	return watch(func() error { return c.frame(opPing, nil) }, gone)
}

// watch closes the session when the other side has gone. Clients of Kubernetes answer
// a ping, or ignore it.
func (s *Session) watch() (stop func()) {
	id := uint32(0)
	return watch(func() error {
		id += 2 // of a server
		return s.frame(framePing, 0, binary.BigEndian.AppendUint32(nil, id))
	}, func() { s.Close() })
}
