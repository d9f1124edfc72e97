package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// atOnce is how many pods wait at the same time.
const atOnce = 250

// codes has n containers exit with i mod 256 while minirund is dead, and asks the
// next minirund for all of the statuses.
func (h *host) codes(n int) error {
	if err := h.busybox(); err != nil {
		return err
	}
	dir := filepath.Join(h.dir, "gate")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	// Who reads from it waits until somebody writes.
	gate := filepath.Join(dir, "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		return err
	}
	right := 0
	for first := 0; first < n; first += atOnce {
		ok, err := h.someCodes(first, min(first+atOnce, n), dir)
		if err != nil {
			return err
		}
		right += ok
		fmt.Printf("%d of %d right\n", right, min(first+atOnce, n))
	}
	if right != n {
		return fmt.Errorf("%d of %d statuses are not what they were", n-right, n)
	}
	return nil
}

func (h *host) someCodes(first, end int, dir string) (right int, err error) {
	w, err := h.watch()
	if err != nil {
		return 0, err
	}
	defer func() { w.cancel() }()
	for i := first; i < end; i++ {
		pod := fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"code%d","labels":{"app":"codes"}},"spec":{"restartPolicy":"Never","terminationGracePeriodSeconds":0,
			"containers":[{"name":"c","image":"busybox","imagePullPolicy":"Never","command":["/bin/busybox","sh","-c","read x < /gate/gate; exit %d"],"volumeMounts":[{"name":"g","mountPath":"/gate"}]}],
			"volumes":[{"name":"g","hostPath":{"path":%q}}]}}`, i, i%256, dir)
		if err := w.post("/api/v1/namespaces/default/pods", pod); err != nil {
			return 0, err
		}
	}
	if err := w.until(func() bool { return w.ready(app("codes")) == end-first }); err != nil {
		return 0, err
	}
	processes := map[int]bool{}
	for _, p := range w.some(app("codes"), end-first) {
		pid, err := h.process(p)
		if err != nil {
			return 0, err
		}
		processes[pid] = true
	}
	time.Sleep(2 * time.Second) // until the shells read
	pid, err := h.daemon()
	if err != nil {
		return 0, err
	}
	if err := errors.Join(unix.Kill(pid, unix.SIGKILL), ended(pid)); err != nil {
		return 0, err
	}
	w.cancel()
	if err := openGate(filepath.Join(dir, "gate"), processes); err != nil {
		return 0, err
	}
	if err := h.up(); err != nil {
		return 0, err
	}
	if w, err = h.watch(); err != nil {
		return 0, err
	}
	phase := func(p *podView) bool {
		return app("codes")(p) && (p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed")
	}
	if err := w.until(func() bool { return w.count(phase) == end-first }); err != nil {
		return 0, err
	}
	for _, p := range w.some(phase, end-first) {
		i, err := strconv.Atoi(strings.TrimPrefix(p.Metadata.Name, "code"))
		if err != nil {
			return 0, err
		}
		t := p.Status.ContainerStatuses[0].State.Terminated
		if t != nil && t.ExitCode == i%256 && (t.ExitCode == 0) == (p.Status.Phase == "Succeeded") {
			right++
		} else {
			text, _ := json.Marshal(p.Status)
			fmt.Printf("%s: %s\n", p.Metadata.Name, text)
		}
	}
	_, err = h.command("kube", "delete", "pods", "-l", "app=codes", "--now")
	return right, err
}

// openGate lets the shells go on until all processes have ended.
func openGate(gate string, processes map[int]bool) error {
	for end := time.Now().Add(time.Minute); len(processes) > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%d processes do not end", len(processes))
		}
		fd, err := unix.Open(gate, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		switch {
		case errors.Is(err, unix.ENXIO): // nobody reads any more
		case err != nil:
			return err
		default:
			unix.Close(fd)
		}
		for pid := range processes {
			if unix.Kill(pid, 0) != nil {
				delete(processes, pid)
			}
		}
	}
	return nil
}

// busybox makes an image of the host's busybox, which must need no libraries.
func (h *host) busybox() error {
	const path = "/bin/busybox"
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("install busybox-static: %w", err)
	}
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	if err := errors.Join(
		t.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}),
		func() error { _, err := t.Write(content); return err }(), t.Close(),
	); err != nil {
		return err
	}
	_, err = h.input(b.String(), "image", "import", "-", "busybox")
	return err
}
