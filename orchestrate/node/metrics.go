package node

import (
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/orchestrate/rest"
)

// sample is how much time on processors was used up to a moment.
type sample struct {
	at   time.Time
	used time.Duration
}

// samples are the last ones, by what they are of. A rate is that since the last
// sample that is old enough.
type samples struct {
	mu   sync.Mutex
	last map[string][2]sample // the older one is what is compared with
}

// minWindow is the shortest time that a rate is over.
const minWindow = 5 * time.Second

// rate is the use since the last time, or, the first time, since began.
func (s *samples) rate(key string, began time.Time, now sample) (micro int64, window time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = map[string][2]sample{}
	}
	for k, v := range s.last { // of what is gone
		if now.at.Sub(v[1].at) > 10*time.Minute {
			delete(s.last, k)
		}
	}
	was, ok := s.last[key]
	if !ok {
		was = [2]sample{{at: began}, {at: began}}
	}
	if now.at.Sub(was[1].at) >= minWindow {
		was[0] = was[1]
		s.last[key] = [2]sample{was[0], now}
	}
	window = now.at.Sub(was[0].at)
	if window <= 0 {
		return 0, 0
	}
	return int64(float64(now.used-was[0].used) / float64(window) * 1e6), window
}

// PodMetrics is what the running containers of a pod use.
func (n *Node) PodMetrics(namespace, name string) (rest.PodMetrics, error) {
	pod, err := get[*corev1.Pod](n, pods, namespace, name)
	if err != nil {
		return rest.PodMetrics{}, err
	}
	if pod == nil {
		return rest.PodMetrics{}, apierrors.NewNotFound(schema.GroupResource{Resource: pods}, name)
	}
	n.mu.Lock()
	w := n.workers[pod.UID]
	n.mu.Unlock()
	m := rest.PodMetrics{Time: time.Now()}
	if w == nil {
		return m, fs.ErrNotExist
	}
	type one struct {
		name, id, group string
		started         time.Time
	}
	var list []one
	w.mu.Lock()
	for name, l := range w.boxes {
		if l.c != nil && l.last != nil && l.last.Running {
			list = append(list, one{name, l.last.ID, l.c.Cgroup, l.last.Started})
		}
	}
	w.mu.Unlock()
	for _, o := range list {
		g := cgroups.Open(n.cgroupMount, o.group)
		used, err := g.Key("cpu.stat", "usage_usec")
		if err != nil {
			continue // it has just ended
		}
		micro, window := n.samples.rate(o.id, o.started, sample{m.Time, time.Duration(used) * time.Microsecond})
		m.Window = max(m.Window, window)
		m.Containers = append(m.Containers, rest.ContainerMetrics{Name: o.name, MicroCPU: micro, Memory: memoryOf(g)})
	}
	if len(m.Containers) == 0 {
		return m, fs.ErrNotExist
	}
	return m, nil
}

// memoryOf is the working set of a group. Without a memory controller it is what its
// processes have in memory, what they share counted for each.
func memoryOf(g *cgroups.Group) int64 {
	if text, err := g.Read("memory.current"); err == nil {
		current, _ := strconv.ParseInt(text, 10, 64)
		inactive, _ := g.Key("memory.stat", "inactive_file")
		return max(current-int64(inactive), 0)
	}
	pids, err := g.Procs()
	if err != nil {
		return 0
	}
	var pages int64
	for _, pid := range pids {
		raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
		if f := strings.Fields(string(raw)); err == nil && len(f) > 1 {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			pages += n
		}
	}
	return pages * int64(os.Getpagesize())
}

// NodeMetrics is what the whole machine uses.
func (n *Node) NodeMetrics() (rest.Usage, error) {
	u := rest.Usage{Time: time.Now()}
	lines, err := readLines("/proc/stat")
	if err != nil {
		return u, err
	}
	var busy time.Duration
	var began time.Time
	for _, l := range lines {
		f := strings.Fields(l)
		switch {
		case len(f) > 8 && f[0] == "cpu":
			for i, text := range f[1:9] {
				if i == 3 || i == 4 { // idle, and waiting for a disk
					continue
				}
				ticks, _ := strconv.ParseInt(text, 10, 64)
				busy += time.Duration(ticks) * (time.Second / 100)
			}
		case len(f) == 2 && f[0] == "btime":
			s, _ := strconv.ParseInt(f[1], 10, 64)
			began = time.Unix(s, 0)
		}
	}
	u.MicroCPU, u.Window = n.samples.rate("", began, sample{u.Time, busy})
	if lines, err = readLines("/proc/meminfo"); err != nil {
		return u, err
	}
	var total, available int64
	for _, l := range lines {
		f := strings.Fields(l)
		if len(f) < 2 {
			continue
		}
		kb, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "MemTotal:":
			total = kb
		case "MemAvailable:":
			available = kb
		}
	}
	u.Memory = (total - available) << 10
	return u, nil
}
