package kills

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// podsGroup is the cgroup that minirund makes those of pods below.
const podsGroup = "/sys/fs/cgroup/minirun-pods"

// process is one that was seen in the cgroup of a container.
type process struct {
	key     attemptKey
	pid     int
	started uint64
	init    bool // process 1 of the container
	early   bool // which does not execute the user's program yet
	parent  int
}

// scan looks at all processes of containers.
func (h *hammer) scan() []process {
	var list []process
	pods, _ := os.ReadDir(podsGroup)
	for _, p := range pods {
		uid, ok := strings.CutPrefix(p.Name(), "pod")
		if !ok || !p.IsDir() {
			continue
		}
		boxes, _ := os.ReadDir(filepath.Join(podsGroup, p.Name()))
		for _, b := range boxes {
			name, n, ok := strings.Cut(b.Name(), "_")
			if !ok || !b.IsDir() {
				continue
			}
			number, err := strconv.Atoi(n)
			if err != nil {
				h.found("cgroup %s/%s is of no container", p.Name(), b.Name())
				continue
			}
			raw, _ := os.ReadFile(filepath.Join(podsGroup, p.Name(), b.Name(), "cgroup.procs"))
			for line := range strings.Lines(string(raw)) {
				pid, _ := strconv.Atoi(strings.TrimSpace(line))
				if q, ok := h.look(attemptKey{containerKey{uid, name}, number}, pid); ok {
					list = append(list, q)
				}
			}
		}
	}
	h.compare(list)
	return list
}

// look finds out about a process.
func (h *hammer) look(k attemptKey, pid int) (process, bool) {
	p := process{key: k, pid: pid}
	var state string
	p.parent, p.started, state = stat(pid)
	if p.started == 0 || state == "Z" || state == "X" {
		return p, false
	}
	if q, ok := h.known[pid]; ok && q.started == p.started && q.key == k && !q.early {
		p.init = q.init
		return p, true
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return p, false
	}
	p.early = strings.Contains(exe, "minirun:")
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return p, false
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "NSpid:" {
			p.init = f[len(f)-1] == "1"
		}
	}
	h.known[pid] = p
	return p, true
}

// stat is the parent of a process, when it was started, and its state.
func stat(pid int) (parent int, started uint64, state string) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, ""
	}
	i := bytes.LastIndexByte(raw, ')')
	f := strings.Fields(string(raw[i+1:]))
	if len(f) < 20 {
		return 0, 0, ""
	}
	parent, _ = strconv.Atoi(f[1])
	started, _ = strconv.ParseUint(f[19], 10, 64)
	return parent, started, f[0]
}

// compare checks that nothing runs twice.
func (h *hammer) compare(list []process) {
	running := map[containerKey]process{}
	w := h.w
	for _, p := range list {
		if !p.init {
			continue
		}
		w.mu.Lock()
		a := w.attempt(p.key)
		if p.early {
			if p.parent > 1 && p.parent != h.d.pid() {
				a.monitor = p.parent
			}
		} else if a.init == 0 {
			a.init, a.since = p.pid, p.started
			if p.parent > 1 && p.parent != h.d.pid() {
				a.monitor = p.parent
			}
		} else if h.bounded && (a.init != p.pid || a.since != p.started) {
			h.found("%s runs twice: process %d, and %d before", p.key, p.pid, a.init)
		}
		w.mu.Unlock()
		if p.early { // nothing of the user's has run, and if it is killed now nothing will have
			continue
		}
		q, ok := running[p.key.containerKey]
		running[p.key.containerKey] = p
		if ok && alive(q) && alive(p) && alive(q) {
			h.found("%s runs while %s does", p.key, q.key)
		}
	}
}

func alive(p process) bool {
	_, started, state := stat(p.pid)
	return started == p.started && state != "Z" && state != "X"
}

// kill kills a process that was seen, if it is still that one.
func kill(pid int, is func() bool) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	// Looked at after opening: if it is the right one now, the descriptor is.
	return is() && unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil
}

// killProcess kills one of a container.
func (h *hammer) killProcess(p process) bool {
	h.w.mu.Lock()
	a := h.w.attempt(p.key)
	before := a.killed
	if p.init {
		a.killed, a.victim = time.Now(), p.pid
	}
	h.w.mu.Unlock()
	h.hit(p.key.uid)
	if kill(p.pid, func() bool { return alive(p) }) {
		return true
	}
	h.w.mu.Lock()
	a.killed = before
	h.w.mu.Unlock()
	return false
}

// killMonitor kills the parent of a container's first process.
func (h *hammer) killMonitor(p process) bool {
	h.w.mu.Lock()
	a := h.w.attempt(p.key)
	pid, before := a.monitor, a.monitorKilled
	if pid != 0 && before.IsZero() {
		a.monitorKilled = time.Now()
	}
	h.w.mu.Unlock()
	if pid == 0 || !before.IsZero() {
		return false
	}
	h.hit(p.key.uid) // in the moment of its start the container ends with it
	if kill(pid, func() bool {
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		parent, _, _ := stat(p.pid)
		return parent == pid && strings.Contains(exe, "minirun:")
	}) {
		return true
	}
	h.w.mu.Lock()
	a.monitorKilled = before
	h.w.mu.Unlock()
	return false
}

// tell has a container end with a status, if it waits for one.
func (h *hammer) tell(p process, code int) bool {
	h.w.mu.Lock()
	a := h.w.attempt(p.key)
	told := a.told
	h.w.mu.Unlock()
	if told >= 0 || !alive(p) {
		return false
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/root/gate", p.pid), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil { // it is not there yet, or does not read yet
		return false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO || !alive(p) {
		return false
	}
	h.hit(p.key.uid)
	h.w.mu.Lock()
	a.told, a.toldAt = code, time.Now()
	h.w.mu.Unlock()
	_, err = unix.Write(fd, []byte(strconv.Itoa(code)+"\n"))
	if err != nil {
		h.w.mu.Lock()
		a.told = -1
		h.w.mu.Unlock()
	}
	return err == nil
}
