package kills

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// daemon is minirund, which is started again whenever it was killed.
type daemon struct {
	h      *hammer
	socket string
	log    *os.File
	notify *net.UnixConn
	client http.Client

	mu      sync.Mutex
	cmd     *exec.Cmd
	ours    bool          // we have killed it
	down    time.Duration // how long it stays so
	ready   chan struct{} // closed when it works
	stopped bool
	ended   chan struct{} // closed when it is not started any more
	kills   []outage
}

// outage is a time without minirund. back is zero as long as it lasts.
type outage struct{ killed, back time.Time }

func newDaemon(h *hammer) (*daemon, error) {
	d := &daemon{h: h, socket: filepath.Join(h.dir, "run", "s"), ready: make(chan struct{}), ended: make(chan struct{})}
	d.client.Timeout = h.limit(2 * time.Minute)
	d.client.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", d.socket)
	}}
	var err error
	if d.log, err = os.Create(filepath.Join(h.dir, "minirund.log")); err != nil {
		return nil, err
	}
	name := filepath.Join(h.dir, "notify")
	if d.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"}); err != nil {
		return nil, err
	}
	if err := d.start(); err != nil {
		return nil, err
	}
	go d.hear()
	go d.keep()
	return d, nil
}

func (d *daemon) start() error {
	cmd := exec.Command(d.h.minirun, d.h.args("up", "--foreground", "--data", filepath.Join(d.h.dir, "data"), "--socket", d.socket)...)
	cmd.Stdout, cmd.Stderr = d.log, d.log
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(d.h.dir, "notify"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	d.mu.Lock() // hear must not hear of it before we know it
	defer d.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	d.cmd, d.ours = cmd, false
	return nil
}

// hear closes ready when minirund says so.
func (d *daemon) hear() {
	b := make([]byte, 64)
	for {
		n, err := d.notify.Read(b)
		if err != nil {
			return
		}
		d.mu.Lock()
		if string(b[:n]) == "READY=1" && !d.ours {
			select {
			case <-d.ready:
			default:
				close(d.ready)
			}
			for i := range d.kills {
				if d.kills[i].back.IsZero() {
					d.kills[i].back = time.Now()
				}
			}
		}
		d.mu.Unlock()
	}
}

// keep starts minirund again.
func (d *daemon) keep() {
	defer close(d.ended)
	for {
		err := d.cmd.Wait()
		d.mu.Lock()
		ours, stopped, down := d.ours, d.stopped, d.down
		select {
		case <-d.ready:
			d.ready = make(chan struct{})
		default:
		}
		d.mu.Unlock()
		if !ours {
			d.h.found("minirund ended by itself: %v; its log is in %s", err, d.log.Name())
			return
		}
		if stopped {
			return
		}
		time.Sleep(down)
		if err := d.start(); err != nil {
			d.h.found("start minirund: %v", err)
			return
		}
	}
}

// kill kills minirund, and has it started again after a while. It is false when
// it is dead already.
func (d *daemon) kill(down time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ours {
		return false
	}
	d.ours, d.down = true, down
	d.kills = append(d.kills, outage{killed: time.Now()})
	select {
	case <-d.ready:
		d.ready = make(chan struct{})
	default:
	}
	// Only keep waits for it, so it is a process, or what is left of one.
	_ = unix.Kill(d.cmd.Process.Pid, unix.SIGKILL)
	return true
}

// killed is how often it was killed.
func (d *daemon) killed() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.kills)
}

func (d *daemon) pid() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cmd.Process.Pid
}

// await waits until minirund works.
func (d *daemon) await() error {
	deadline := time.After(d.h.limit(2 * time.Minute))
	for {
		d.mu.Lock()
		ready := d.ready
		d.mu.Unlock()
		select {
		case <-ready:
			return nil
		case <-time.After(time.Second): // it may be another one now
		case <-d.ended:
			return errors.New("minirund has ended")
		case <-deadline:
			return errors.New("minirund does not say that it works after 2 minutes")
		}
	}
}

// without tells whether minirund was dead, or about to be, when a container ended whose
// monitor was killed at that time: then nobody was told how. over is zero if nobody
// knows when that was. Within slack minirund looks at what there is when it has come
// back, and writes down what it hears.
func (d *daemon) without(monitor, over time.Time, slack time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range d.kills {
		back := o.back.IsZero() || o.back.Add(slack).After(monitor) && o.back.Add(slack).After(over)
		if back && (over.IsZero() || o.killed.Before(over.Add(slack))) {
			return true
		}
	}
	return false
}

func (d *daemon) stop() {
	d.mu.Lock()
	d.stopped = true
	d.mu.Unlock()
	for !d.kill(0) { // it is just being started
		select {
		case <-d.ended:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
	<-d.ended
}

// errNotSent says that a request has not reached minirund.
var errNotSent = errors.New("minirund is away")

// answer is what the API says.
type answer struct {
	code int
	body []byte
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.code, head(string(a.body), 300)) }

func head(s string, n int) string {
	if len(s) > n {
		return s[:n] + "..."
	}
	return strings.TrimSpace(s)
}

// do makes a request. After an error other than errNotSent nobody knows whether it was
// carried out.
func (d *daemon) do(method, path, contentType, body string) (answer, error) {
	q, err := http.NewRequest(method, "http://minirund"+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return answer{}, err
	}
	if contentType == "" {
		contentType = "application/json"
	}
	q.Header.Set("Content-Type", contentType)
	resp, err := d.client.Do(q)
	if err != nil {
		if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
			err = errNotSent
		}
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, b}, err
}

// get asks until there is an answer.
func (d *daemon) get(path string, into any) error {
	for {
		if err := d.await(); err != nil {
			return err
		}
		a, err := d.do(http.MethodGet, path, "", "")
		if err != nil {
			if d.h.failed() {
				return err
			}
			time.Sleep(5 * time.Millisecond)
			continue
		}
		if a.code == http.StatusNotFound {
			return os.ErrNotExist
		}
		if a.code != http.StatusOK {
			return fmt.Errorf("GET %s: %s", path, a)
		}
		return json.Unmarshal(a.body, into)
	}
}
