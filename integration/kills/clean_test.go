package kills

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// remains is what there is in this host at one moment, without pods.
type remains struct {
	things map[string]bool // mounts, links, rules, groups, files
	fds    int
	rss    int
}

// warmUp has one pod come and go, so that what stays for good is there, and notes it.
func (h *hammer) warmUp() error {
	if err := h.d.await(); err != nil {
		return err
	}
	o := h.objects[len(h.objects)-1]
	c, ok := h.creation(o)
	if !ok {
		return fmt.Errorf("%s is there", o)
	}
	h.begin(c)
	h.wg.Wait()
	if err := h.settle(); err != nil {
		return err
	}
	if err := h.clean(); err != nil {
		return err
	}
	return nil
}

// clean has everything deleted, and looks for what is left.
func (h *hammer) clean() error {
	h.wg.Wait()
	h.note("delete everything")
	for _, o := range h.objects {
		if len(o.maybe) > 0 {
			if err := o.resolve(); err != nil {
				return err
			}
		}
		for o.now.exists && !h.failed() {
			if err := h.d.await(); err != nil {
				return err
			}
			h.begin(change{o: o, what: "delete", method: "DELETE", query: "?propagationPolicy=Background"})
			if h.base != nil && h.r.IntN(3) == 0 { // not so fast
				h.strike()
			}
			h.wg.Wait()
			if len(o.maybe) > 0 {
				if err := o.resolve(); err != nil {
					return err
				}
			}
		}
	}
	if err := h.settle(); err != nil || h.failed() {
		return err
	}
	if pods := h.w.all(); len(pods) > 0 {
		h.found("pods of nobody: %s", h.w.tell(pods))
	}
	deadline := time.Now().Add(h.limit(30 * time.Second))
	for {
		now, err := h.remains()
		if err != nil {
			return err
		}
		var left []string
		if h.base == nil {
			for t := range now.things {
				if strings.HasPrefix(t, "mount "+h.dir) || strings.HasPrefix(t, "cgroup ") || strings.HasPrefix(t, "process ") || strings.HasPrefix(t, "ip ") && strings.Contains(t, ": mv") {
					left = append(left, t)
				}
			}
			if len(left) == 0 {
				h.base = now
			}
		} else {
			left = h.base.less(now)
		}
		if len(left) == 0 {
			fmt.Printf("%6.0f s, all deleted: minirund has %d descriptors (%d at first), %d MB (%d), log %s\n", time.Since(h.began).Seconds(), now.fds, h.base.fds, now.rss>>10, h.base.rss>>10, h.log())
			return nil
		}
		if time.Now().After(deadline) {
			h.found("left when everything was deleted: %s", strings.Join(left, "\n\t"))
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// less lists what is there now and was not before.
func (r *remains) less(now *remains) (out []string) {
	for t := range now.things {
		if !r.things[t] {
			out = append(out, t)
		}
	}
	// Connections of this program come and go.
	if now.fds > r.fds+8 {
		out = append(out, fmt.Sprintf("minirund has %d descriptors, and had %d", now.fds, r.fds))
	}
	if now.rss > r.rss+128<<10 {
		out = append(out, fmt.Sprintf("minirund has %d kB of memory, and had %d", now.rss, r.rss))
	}
	slices.Sort(out)
	return out
}

// changing are numbers of the kernel's that differ from one look to the next.
var changing = regexp.MustCompile(`# handle \d+|packets \d+ bytes \d+|expires \S+`)

func (h *hammer) remains() (*remains, error) {
	r := &remains{things: map[string]bool{}}
	add := func(kind, text string) { r.things[kind+" "+text] = true }
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(info)) {
		if f := strings.Fields(line); len(f) > 4 {
			if strings.HasPrefix(f[4], h.dir) { // those of others, of whom these are copies, go when they like
				add("mount", f[4])
			}
		}
	}
	for _, args := range [][]string{{"ip", "-o", "link"}, {"ip", "-o", "-4", "address"}, {"ip", "netns"}, {"nft", "list", "ruleset"}} {
		out, err := exec.Command(args[0], args[1:]...).Output()
		if err != nil {
			return nil, fmt.Errorf("%v: %w", args, err)
		}
		for line := range strings.Lines(string(out)) {
			line = changing.ReplaceAllString(strings.TrimSpace(line), "")
			if args[0] == "ip" {
				line, _, _ = strings.Cut(line, ": <")
			}
			add(args[0], line)
		}
	}
	groups, err := os.ReadDir(podsGroup)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	for _, g := range groups {
		if g.IsDir() {
			add("cgroup", g.Name())
		}
	}
	if err := r.files(h.dir, add); err != nil {
		return nil, err
	}
	return r, h.processes(r, add)
}

// files are those of what minirund keeps of pods, by name.
func (r *remains) files(dir string, add func(kind, text string)) error {
	for _, top := range []string{"data/node", "data/volumes", "store", "containers"} {
		err := filepath.WalkDir(filepath.Join(dir, top), func(path string, e fs.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil
			}
			if err == nil {
				add("file", strings.TrimPrefix(path, dir))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// processes are all of this pid namespace but the one that is expected.
func (h *hammer) processes(r *remains, add func(kind, text string)) error {
	pid := h.d.pid()
	all, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range all {
		n, err := strconv.Atoi(e.Name())
		if err != nil || n == 1 || n == os.Getpid() || n == pid {
			continue
		}
		cmd, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if _, _, state := stat(n); state != "" {
			add("process", fmt.Sprintf("%d %s %s", n, state, strings.ReplaceAll(string(cmd), "\x00", " ")))
		}
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return err
	}
	r.fds = len(fds)
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if f := strings.Fields(string(raw)); err == nil && len(f) > 1 {
		r.rss = int(number(f[1])) * os.Getpagesize() >> 10
	}
	return err
}

// log counts what minirund complains about, and reports what must not be in it.
func (h *hammer) log() string {
	raw, err := os.ReadFile(h.d.log.Name())
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(raw)) {
		for _, bad := range []string{"panic", "a part of minirund ended", "damaged", "DATA RACE", "fatal error"} {
			if strings.Contains(line, bad) {
				h.found("minirund says: %s", line)
			}
		}
	}
	return fmt.Sprintf("%d lines", strings.Count(string(raw), "\n"))
}
