package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sleeper is a Deployment of pods that do nothing.
func sleeper(name string, replicas int) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %s}
spec:
  replicas: %d
  strategy: {rollingUpdate: {maxSurge: 100%%, maxUnavailable: 0}}
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: c, image: minirun/demo, imagePullPolicy: Never, command: [sleep, "100000"]}
`, name, replicas)
}

// bench measures, and prints one line for each thing.
func (h *host) bench(pods int) error {
	w, err := h.watch()
	if err != nil {
		return err
	}
	defer w.cancel()
	for _, f := range []func(*watcher) error{h.onePod, h.fifty, h.replaced, h.many(pods)} {
		if err := f(w); err != nil {
			return err
		}
	}
	return nil
}

func line(what, goal string, all []time.Duration) {
	slices.Sort(all)
	fmt.Printf("%-52s median %s, from %s to %s, n=%d (goal %s)\n", what, ms(all[len(all)/2]), ms(all[0]), ms(all[len(all)-1]), len(all), goal)
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

// onePod is how long a pod takes from the request to the status that says Ready.
func (h *host) onePod(w *watcher) error {
	var all []time.Duration
	for i := range 20 {
		name := fmt.Sprintf("one%d", i)
		pod := fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q},"spec":{"terminationGracePeriodSeconds":0,"containers":[{"name":"c","image":"minirun/demo","imagePullPolicy":"Never","command":["sleep","100000"]}]}}`, name)
		began := time.Now()
		if err := w.post("/api/v1/namespaces/default/pods", pod); err != nil {
			return err
		}
		if err := w.until(func() bool { return w.ready(func(p *podView) bool { return p.Metadata.Name == name }) == 1 }); err != nil {
			return err
		}
		all = append(all, time.Since(began))
	}
	line("a pod, from its creation to Ready", "100 ms", all)
	_, err := h.command("kube", "delete", "pods", "--all", "--now")
	return err
}

// fifty is how long a Deployment of 50 pods takes.
func (h *host) fifty(w *watcher) error {
	var all []time.Duration
	for range 3 {
		began := time.Now()
		if err := h.apply(sleeper("fifty", 50)); err != nil {
			return err
		}
		if err := w.until(func() bool { return w.ready(app("fifty")) == 50 }); err != nil {
			return err
		}
		all = append(all, time.Since(began))
		if err := h.gone("fifty", w); err != nil {
			return err
		}
	}
	line("50 pods of a Deployment, with kube apply", "3000 ms", all)
	return nil
}

func (h *host) gone(name string, w *watcher) error {
	if _, err := h.command("kube", "delete", "deployment", name); err != nil {
		return err
	}
	return w.until(func() bool { return w.count(app(name)) == 0 })
}

// replaced is how long it takes until a replica that is gone has a successor: one
// whose process was killed, and one that was deleted.
func (h *host) replaced(w *watcher) error {
	if err := h.apply(sleeper("victim", 3)); err != nil {
		return err
	}
	if err := w.until(func() bool { return w.ready(app("victim")) == 3 }); err != nil {
		return err
	}
	var killed, deleted []time.Duration
	for range 10 {
		p := w.any(app("victim"))
		pid, err := h.process(p)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			return err
		}
		uid, n := p.Metadata.UID, p.restarts()
		if err := w.until(func() bool {
			return w.ready(func(p *podView) bool { return p.Metadata.UID == uid && p.restarts() > n }) == 1
		}); err != nil {
			return err
		}
		killed = append(killed, time.Since(began))
		// What restarts again waits longer each time: the next one is another pod.
		began = time.Now()
		if err := w.remove("/api/v1/namespaces/default/pods/" + p.Metadata.Name); err != nil {
			return err
		}
		if err := w.until(func() bool {
			return w.ready(func(p *podView) bool { return app("victim")(p) && p.Metadata.UID != uid }) == 3
		}); err != nil {
			return err
		}
		deleted = append(deleted, time.Since(began))
	}
	line("killed process, until its successor runs", "100 ms", killed)
	line("deleted pod, until its successor runs", "100 ms", deleted)
	return h.gone("victim", w)
}

// process finds the first process of a pod's container.
func (h *host) process(p *podView) (int, error) {
	_, id, ok := strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
	if !ok {
		return 0, fmt.Errorf("pod %s has no container", p.Metadata.Name)
	}
	cmd := exec.Command(h.minirun, "--root", filepath.Join(h.dir, "data", "node", "containers"), "state", id)
	out, err := cmd.Output()
	var s struct{ Pid int }
	if err == nil {
		err = json.Unmarshal(out, &s)
	}
	if err == nil && s.Pid <= 1 {
		err = fmt.Errorf("container %s has no process", id)
	}
	return s.Pid, err
}

// idle is a whole number of minutes.
const idle = 2 * time.Minute

// many starts many pods, looks at what they cost, and restarts minirund over them.
func (h *host) many(n int) func(*watcher) error {
	return func(w *watcher) error {
		began := time.Now()
		if err := h.apply(sleeper("many", n)); err != nil {
			return err
		}
		if err := w.until(func() bool { return w.ready(app("many")) == n }); err != nil {
			return err
		}
		fmt.Printf("%d pods: %.1f s\n", n, time.Since(began).Seconds())
		time.Sleep(15 * time.Second) // until events are written and backups made
		pid, err := h.daemon()
		if err != nil {
			return err
		}
		before, err := cpu(pid)
		if err != nil {
			return err
		}
		time.Sleep(idle) // what is looked at once a minute is part of it
		after, err := cpu(pid)
		if err != nil {
			return err
		}
		rss, err := memory(pid, "Rss:")
		if err != nil {
			return err
		}
		fmt.Printf("minirund with %d pods: %.1f MB resident (goal 80), %.2f %% of a core when nothing happens (goal 1)\n", n, float64(rss)/1e6, (after-before).Seconds()/idle.Seconds()*100)
		monitors, private := monitors()
		fmt.Printf("%d monitors: median %.0f kB private (goal 64)\n", monitors, private/1024)

		var all []time.Duration
		for range 3 {
			// A container that is killed again waits longer, as it should.
			victims := w.some(func(p *podView) bool { return app("many")(p) && p.restarts() == 0 }, 10)
			var pids []int
			for _, p := range victims {
				q, err := h.process(p)
				if err != nil {
					return err
				}
				pids = append(pids, q)
			}
			if pid, err = h.daemon(); err != nil {
				return err
			}
			if err := errors.Join(unix.Kill(pid, unix.SIGKILL), ended(pid)); err != nil {
				return err
			}
			w.cancel()
			for _, q := range pids {
				if err := unix.Kill(q, unix.SIGKILL); err != nil {
					return err
				}
			}
			began := time.Now()
			if err := h.up(); err != nil {
				return err
			}
			nw, err := h.watch()
			if err != nil {
				return err
			}
			*w = *nw
			if err := w.until(func() bool {
				for _, v := range victims {
					if w.ready(func(p *podView) bool { return p.Metadata.UID == v.Metadata.UID && p.restarts() > v.restarts() }) == 0 {
						return false
					}
				}
				return w.ready(app("many")) == n
			}); err != nil {
				return err
			}
			all = append(all, time.Since(began))
		}
		line(fmt.Sprintf("kill -9 of minirund, %d pods, 10 of them killed too,\n  until all run again", n), "1000 ms", all)
		began = time.Now()
		if err := h.gone("many", w); err != nil {
			return err
		}
		fmt.Printf("%d pods deleted: %.1f s\n", n, time.Since(began).Seconds())
		return nil
	}
}

// daemon is the process of minirund.
func (h *host) daemon() (int, error) {
	out, err := h.command("status", "--socket", h.socket(), "--format", "json")
	var s struct{ Pid int }
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	return s.Pid, err
}

func ended(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
	return err
}

// cpu is the processor time that a process has used.
func cpu(pid int) (time.Duration, error) {
	// /proc/PID/schedstat is of the first thread alone.
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		if err != nil {
			continue // the thread has ended
		}
		n, err := strconv.ParseInt(strings.Fields(string(b))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n)
	}
	return sum, nil
}

// memory is a line of smaps_rollup, in bytes.
func memory(pid int, names ...string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	var sum int64
	for l := range strings.Lines(string(b)) {
		f := strings.Fields(l)
		if len(f) > 1 && slices.Contains(names, f[0]) {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0, err
			}
			sum += n * 1024
		}
	}
	return sum, nil
}

// monitors finds the monitors of these namespaces and their private memory.
func monitors() (n int, median float64) {
	mine, _ := os.Readlink("/proc/self/ns/mnt")
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var all []int64
	for _, d := range dirs {
		exe, _ := os.Readlink(d + "/exe")
		ns, _ := os.Readlink(d + "/ns/mnt")
		pid, _ := strconv.Atoi(filepath.Base(d))
		if ns != mine || !strings.Contains(exe, "minirun:init") {
			continue
		}
		if m, err := memory(pid, "Private_Clean:", "Private_Dirty:"); err == nil {
			all = append(all, m)
		}
	}
	if len(all) == 0 {
		return 0, 0
	}
	slices.Sort(all)
	return len(all), float64(all[len(all)/2])
}

// podView is what this program wants to know of a pod.
type podView struct {
	Metadata struct {
		Name, UID, DeletionTimestamp string
		Labels                       map[string]string
	}
	Status struct {
		Conditions        []struct{ Type, Status string }
		Phase             string
		ContainerStatuses []struct {
			ContainerID  string
			RestartCount int
			State        struct {
				Terminated *struct{ ExitCode int }
			}
		}
	}
}

func (p *podView) restarts() int {
	if len(p.Status.ContainerStatuses) == 0 {
		return 0
	}
	return p.Status.ContainerStatuses[0].RestartCount
}

func app(name string) func(*podView) bool {
	return func(p *podView) bool { return p.Metadata.Labels["app"] == name }
}

// watcher follows the pods.
type watcher struct {
	client http.Client
	pods   map[string]*podView
	events chan event
	err    chan error
	cancel func()
}

type event struct {
	Type   string
	Object json.RawMessage
}

func (h *host) watch() (*watcher, error) {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{pods: map[string]*podView{}, events: make(chan event, 1000), err: make(chan error, 1), cancel: cancel}
	w.client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", h.socket())
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://minirund/api/v1/pods?watch=true", nil)
	if err != nil {
		return nil, err
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("watch: %s", resp.Status)
	}
	go func() {
		defer resp.Body.Close()
		d := json.NewDecoder(bufio.NewReaderSize(resp.Body, 1<<16))
		for {
			var e event
			if err := d.Decode(&e); err != nil {
				w.err <- err
				return
			}
			w.events <- e
		}
	}()
	return w, nil
}

// until takes in changes until something is true.
func (w *watcher) until(f func() bool) error {
	deadline := time.After(5 * time.Minute)
	for !f() {
		select {
		case e := <-w.events:
			var p podView
			if err := json.Unmarshal(e.Object, &p); err != nil {
				return err
			}
			if e.Type == "DELETED" {
				delete(w.pods, p.Metadata.UID)
			} else {
				w.pods[p.Metadata.UID] = &p
			}
		case err := <-w.err:
			return fmt.Errorf("watch: %w", err)
		case <-deadline:
			return errors.New("nothing happens after 5 minutes")
		}
	}
	return nil
}

// ready counts pods that are ready and not on their way out.
func (w *watcher) ready(of func(*podView) bool) int {
	return w.count(func(p *podView) bool {
		return of(p) && p.Metadata.DeletionTimestamp == "" && slices.Contains(p.Status.Conditions, struct{ Type, Status string }{"Ready", "True"})
	})
}

func (w *watcher) count(of func(*podView) bool) (n int) {
	for _, p := range w.pods {
		if of(p) {
			n++
		}
	}
	return n
}

func (w *watcher) some(of func(*podView) bool, n int) (out []*podView) {
	for _, p := range w.pods {
		if of(p) && len(out) < n {
			out = append(out, p)
		}
	}
	return out
}

func (w *watcher) any(of func(*podView) bool) *podView { return w.some(of, 1)[0] }

func (w *watcher) post(path, body string) error {
	return w.request(http.MethodPost, path, body)
}

func (w *watcher) remove(path string) error { return w.request(http.MethodDelete, path, "") }

func (w *watcher) request(method, path, body string) error {
	req := &http.Request{
		Method: method, URL: &url.URL{Scheme: "http", Host: "minirund", Path: path},
		Header: http.Header{"Content-Type": {"application/json"}}, Body: readCloser{strings.NewReader(body)}, ContentLength: int64(len(body)),
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	return nil
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }
