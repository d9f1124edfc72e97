package stream

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/adler32"
	"io"
	"net"
	"os"
	"reflect"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// ends are the two of a connection, with the buffers of a socket between them.
func ends(t *testing.T) (a, b net.Conn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out [2]net.Conn
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "end")
		if out[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		out[i].SetDeadline(time.Now().Add(testenv.Timeout(20 * time.Second)))
		t.Cleanup(func() { out[i].Close() })
	}
	return out[0], out[1]
}

// sessions are a client and a server that does accept with each stream.
func sessions(t *testing.T, accept func(*Stream)) *Session {
	t.Helper()
	a, b := ends(t)
	client, server := NewSession(a, nil, true), NewSession(b, nil, false)
	var wg sync.WaitGroup
	wg.Go(func() { client.Serve(func(st *Stream) { st.Reset() }) })
	wg.Go(func() {
		if err := server.Serve(func(st *Stream) { wg.Go(func() { accept(st) }) }); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		client.Close()
		server.Close()
		wg.Wait()
	})
	return client
}

// TestSession: many streams at once, more than any buffer holds, and each end of
// a direction is one of that direction alone.
func TestSession(t *testing.T) {
	client := sessions(t, func(st *Stream) {
		n, err := io.Copy(st, st)
		if err != nil {
			t.Errorf("stream %s after %d bytes: %v", st.Header["n"], n, err)
		}
		fmt.Fprintf(st, " end of %s", st.Header["n"]) // after theirs
		st.CloseWrite()
	})
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			st, err := client.Open(map[string]string{"N": strconv.Itoa(i), "empty": ""})
			if err != nil {
				t.Error(err)
				return
			}
			wg.Go(func() {
				if _, err := st.Write(data); err != nil {
					t.Error(err)
				}
				st.CloseWrite()
			})
			got, err := io.ReadAll(st)
			if want := fmt.Sprintf("%s end of %d", data, i); err != nil || string(got) != want {
				t.Errorf("stream %d: %d bytes of %d, %v", i, len(got), len(want), err)
			}
		})
	}
	wg.Wait()
}

func TestSession_Reset(t *testing.T) {
	heard := make(chan error, 1)
	client := sessions(t, func(st *Stream) {
		if st.Header["who"] == "server" {
			st.Reset()
			return
		}
		_, err := io.ReadAll(st)
		heard <- err
	})
	st, err := client.Open(map[string]string{"who": "client"})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Reset(); err != nil {
		t.Fatal(err)
	}
	if err := <-heard; !errors.Is(err, ErrReset) {
		t.Errorf("the server has read %v", err)
	}
	if _, err := st.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	if st, err = client.Open(map[string]string{"who": "server"}); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
		t.Errorf("the client has read %v", err)
	}
}

// A stream that nobody reads holds the others up, and its end does not hang.
func TestSession_CloseWhileFull(t *testing.T) {
	a, b := ends(t)
	server := NewSession(b, nil, false)
	opened, over := make(chan *Stream, 1), make(chan error, 1)
	go func() { over <- server.Serve(func(st *Stream) { opened <- st }) }()
	client := NewSession(a, nil, true)
	st, err := client.Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	<-opened
	go st.Write(make([]byte, 4*maxQueue)) // until the end
	for q := &server.stream(1).in; ; time.Sleep(time.Millisecond) {
		q.lock()
		full := q.size > maxQueue
		q.mu.Unlock()
		if full {
			break
		}
	}
	server.Close()
	<-over
	client.Close()
}

// The dictionary is the one that all have, whose sum is in each stream's head, and
// frames that github.com/moby/spdystream has written are read.
func TestSession_Foreign(t *testing.T) {
	if sum := adler32.Checksum(dictionary()); sum != 0xe3c6a7c2 {
		t.Errorf("sum of the dictionary: %#x", sum)
	}
	a, b := ends(t)
	server := NewSession(b, nil, false)
	var got []map[string]string
	done := make(chan error, 1)
	go func() { done <- server.Serve(func(st *Stream) { got = append(got, st.Header) }) }()
	for _, frame := range []string{
		"800300010000003e0000000100000000000078f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45e01c60616061c0c0c0c0590489c64c50f2663400000000ffff",
		"800300010100001800000003000000000000c2aa19540e2512d60b000000ffff",
		"80030006000000040000000b", // a ping
		"800300070000000800000000" + "00000000",
	} {
		raw, err := hex.DecodeString(frame)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Write(raw); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	b.Close()
	want := []map[string]string{{"streamtype": "error", "port": "8080", "requestid": "0"}, {"streamtype": "data", "port": "8080", "requestid": "0"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	answer, err := io.ReadAll(a)
	if err != nil || !bytes.HasSuffix(answer, []byte{0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 11}) {
		t.Errorf("answer %x, %v", answer, err)
	}
}

// TestSession_Hostile: what breaks the rules ends the session, and takes no memory
// before it does.
func TestSession_Hostile(t *testing.T) {
	header := func(fields uint32, lengths ...uint32) []byte {
		text := binary.BigEndian.AppendUint32(nil, fields)
		for _, n := range lengths {
			text = append(binary.BigEndian.AppendUint32(text, n), make([]byte, min(n, 1<<20))...)
		}
		var p packer
		p.block(nil, nil)
		p.buf.Reset()
		p.z.Reset(&p.buf)
		p.z.Write(text)
		p.z.Flush()
		return p.buf.Bytes()
	}
	open := func(id uint32, block []byte) []byte {
		body := append(binary.BigEndian.AppendUint32(nil, id), 0, 0, 0, 0, 0, 0)
		body = append(body, block...)
		b := binary.BigEndian.AppendUint32(nil, 1<<31|3<<16|frameSynStream)
		return append(binary.BigEndian.AppendUint32(b, uint32(len(body))), body...)
	}
	good := header(0)
	for name, raw := range map[string][]byte{
		"another version":     {0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1},
		"a huge frame":        {0x80, 3, 0, 4, 0, 0xff, 0xff, 0xff},
		"a short frame":       {0x80, 3, 0, 1, 0, 0, 0, 1, 0},
		"no header":           open(1, nil),
		"no zlib":             open(1, []byte("hello, world")),
		"many fields":         open(1, header(1<<20)),
		"a long name":         open(1, header(1, 1<<31)),
		"a header that grows": open(1, header(2, 30<<10, 30<<10)),
		"more than the header": open(1, func() []byte {
			return append(bytes.Clone(good), 0, 0, 0, 0xff, 0xff)
		}()),
		"a number of ours":  open(2, good),
		"a number of zero":  open(0, good),
		"the same again":    append(open(1, good), open(1, good)...),
		"a broken header":   open(1, good[:len(good)-7]),
		"text in the place": []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n\xff\xff\xff\xff"),
	} {
		t.Run(name, func(t *testing.T) {
			a, b := ends(t)
			go io.Copy(io.Discard, a)
			done := make(chan error, 1)
			go func() {
				done <- NewSession(b, nil, false).Serve(func(*Stream) {})
				b.Close()
			}()
			a.Write(raw)
			if name == "text in the place" { // it is data of a stream that is not there
				a.Close()
				if err := <-done; err == nil {
					t.Error("no error")
				}
				return
			}
			if err := <-done; !errors.Is(err, errSPDY) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// More streams than may be are refused, one by one; when one has ended there is
// room again.
func TestSession_TooMany(t *testing.T) {
	a, b := ends(t)
	server, client := NewSession(b, nil, false), NewSession(a, nil, true)
	var mu sync.Mutex
	var all []*Stream
	go server.Serve(func(st *Stream) {
		mu.Lock()
		all = append(all, st)
		mu.Unlock()
	})
	go client.Serve(func(*Stream) {})
	var last *Stream
	for range maxStreams + 1 {
		st, err := client.Open(nil)
		if err != nil {
			t.Fatal(err)
		}
		last = st
	}
	if _, err := last.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
		t.Fatalf("one too many: %v", err)
	}
	mu.Lock()
	all[0].Reset()
	if len(all) != maxStreams {
		t.Errorf("%d streams", len(all))
	}
	mu.Unlock()
	st, err := client.Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	for { // it comes behind the others
		mu.Lock()
		n := len(all)
		mu.Unlock()
		if n > maxStreams {
			break
		}
		time.Sleep(time.Millisecond)
	}
	st.Reset()
	client.Close()
	server.Close()
}

// FuzzSession: whatever comes, it ends.
func FuzzSession(f *testing.F) {
	for _, s := range []string{
		"800300010000003e0000000100000000000078f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45e01c60616061c0c0c0c0590489c64c50f2663400000000ffff",
		"00000001000000027878", "80030003000000080000000100000005", "80030006000000040000000b",
	} {
		raw, _ := hex.DecodeString(s)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := &pipe{r: bytes.NewReader(raw)}
		s := NewSession(c, nil, false)
		s.Serve(func(st *Stream) { st.CloseRead() })
	})
}

// pipe reads what there is and writes nowhere.
type pipe struct{ r *bytes.Reader }

func (p *pipe) Read(b []byte) (int, error)  { return p.r.Read(b) }
func (p *pipe) Write(b []byte) (int, error) { return len(b), nil }
func (p *pipe) Close() error                { return nil }
