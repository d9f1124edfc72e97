package kills

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// world is what is seen of pods: by a watch of the API, and by looks at processes.
type world struct {
	h *hammer

	version atomic.Uint64 // the newest one that was seen or acknowledged

	mu       sync.Mutex
	of       int // how often minirund had been killed when the watch began
	pods     map[string]*pod
	gone     map[string]bool // uids
	attempts map[attemptKey]*attempt
	restarts map[containerKey]int
	phases   map[string]string // of pods that came to an end
	ends     int
	unknown  int
	changed  chan struct{}
}

type containerKey struct{ uid, name string }

type attemptKey struct {
	containerKey
	number int
}

func (k attemptKey) String() string { return fmt.Sprintf("%s_%s_%d", k.uid, k.name, k.number) }

// attempt is what was done to one run of a container, and what became of it.
type attempt struct {
	init, monitor  int // processes that were seen
	victim         int // the one that was killed
	since          uint64
	told           int // the status that it was told to end with, -1 if none
	killed, toldAt time.Time
	monitorKilled  time.Time
	end            *end
}

// over is the earliest time at which the attempt can have ended.
func (a *attempt) over() time.Time {
	if a.init != 0 && a.victim != a.init { // killed was one that had not come to run, and that another was made for
		return a.toldAt
	}
	if a.killed.IsZero() || !a.toldAt.IsZero() && a.toldAt.Before(a.killed) {
		return a.toldAt
	}
	return a.killed
}

// end is how an attempt ended.
type end struct {
	ExitCode, Signal int
	Reason, Message  string
	ContainerID      string
}

// pod is what the API says of a pod.
type pod struct {
	Metadata struct {
		Name, Namespace, UID, ResourceVersion string
		DeletionTimestamp                     *string
		Labels                                map[string]string
	}
	Spec struct {
		RestartPolicy string
		Containers    []struct {
			Name string
			Env  []struct{ Name, Value string }
		}
	}
	Status struct {
		Phase, PodIP                             string
		Conditions                               []struct{ Type, Status string }
		InitContainerStatuses, ContainerStatuses []containerStatus
	}
}

type containerStatus struct {
	Name, ContainerID string
	RestartCount      int
	State, LastState  struct {
		Running    *struct{}
		Waiting    *struct{ Reason, Message string }
		Terminated *end
	}
}

func (p *pod) is(condition string) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == condition {
			return c.Status == "True"
		}
	}
	return false
}

func (p *pod) over() bool { return p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" }

// active pods count against the ceiling of who wants them.
func (p *pod) active() bool { return p.Metadata.DeletionTimestamp == nil && !p.over() }

// version is that of the template that the pod was made from.
func (p *pod) version() string {
	for _, c := range p.Spec.Containers {
		for _, e := range c.Env {
			if e.Name == "V" {
				return e.Value
			}
		}
	}
	return ""
}

func newWorld(h *hammer) *world {
	return &world{
		h: h, pods: map[string]*pod{}, gone: map[string]bool{}, attempts: map[attemptKey]*attempt{}, restarts: map[containerKey]int{},
		phases: map[string]string{}, changed: make(chan struct{}, 1),
	}
}

// acknowledged notes a version that minirund has answered with.
func (w *world) acknowledged(v uint64) {
	for {
		old := w.version.Load()
		if v <= old || w.version.CompareAndSwap(old, v) {
			return
		}
	}
}

func (w *world) newest() uint64 { return w.version.Load() }

// follow watches pods as long as the hammer works, of one minirund after the other.
func (w *world) follow() {
	for !w.h.failed() && !w.h.over() {
		if w.h.d.await() != nil {
			return
		}
		if err := w.once(); err != nil {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func (w *world) once() error {
	before, of := w.newest(), w.h.d.killed()
	a, err := w.h.d.do(http.MethodGet, "/api/v1/pods", "", "")
	if err != nil {
		return err
	}
	if a.code != http.StatusOK {
		w.h.found("list of pods: %s", a)
		return nil
	}
	var list struct {
		Metadata struct{ ResourceVersion string }
		Items    []*pod
	}
	if err := json.Unmarshal(a.body, &list); err != nil {
		w.h.found("list of pods: %v", err)
		return nil
	}
	v := number(list.Metadata.ResourceVersion)
	if v < before {
		w.h.found("resourceVersion went back: a list has %d, %d was there before it was asked for", v, before)
	}
	w.acknowledged(v)
	w.mu.Lock()
	w.of = of
	seen := map[string]bool{}
	for _, p := range list.Items {
		seen[p.Metadata.UID] = true
		w.see(p)
	}
	for uid := range w.pods {
		if !seen[uid] {
			w.lose(uid)
		}
	}
	w.mu.Unlock()
	w.check()
	req, err := http.NewRequest(http.MethodGet, "http://minirund/api/v1/pods?watch=true&resourceVersion="+list.Metadata.ResourceVersion, nil)
	if err != nil {
		return err
	}
	client := w.h.d.client
	client.Timeout = 0
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK { // another minirund does not know that version
		return fmt.Errorf("watch: %s", resp.Status)
	}
	d := json.NewDecoder(bufio.NewReaderSize(resp.Body, 1<<16))
	last := v
	for {
		var e struct {
			Type   string
			Object json.RawMessage
		}
		if err := d.Decode(&e); err != nil {
			return err
		}
		if e.Type == "ERROR" {
			return fmt.Errorf("watch: %s", e.Object)
		}
		p := &pod{}
		if err := json.Unmarshal(e.Object, p); err != nil {
			w.h.found("watch: %v in %s", err, e.Object)
			return nil
		}
		v := number(p.Metadata.ResourceVersion)
		if v <= last {
			w.h.found("watch: version %d of pod %s comes after %d", v, p.Metadata.Name, last)
		}
		last = v
		w.acknowledged(v)
		w.mu.Lock()
		if e.Type == "DELETED" {
			w.lose(p.Metadata.UID)
		} else {
			w.see(p)
		}
		w.mu.Unlock()
		w.check()
	}
}

func number(s string) uint64 {
	n, _ := strconv.ParseUint(s, 10, 64)
	return n
}

func (w *world) lose(uid string) {
	delete(w.pods, uid)
	w.gone[uid] = true
	for k := range w.restarts {
		if k.uid == uid {
			delete(w.restarts, k)
		}
	}
}

// see takes in what is said of a pod, with the lock.
func (w *world) see(p *pod) {
	uid := p.Metadata.UID
	if w.gone[uid] {
		w.h.found("pod %s, uid %s, is there again after it was gone", p.Metadata.Name, uid)
	}
	if old := w.pods[uid]; old != nil {
		if number(p.Metadata.ResourceVersion) < number(old.Metadata.ResourceVersion) {
			w.h.found("pod %s: version %s after %s", p.Metadata.Name, p.Metadata.ResourceVersion, old.Metadata.ResourceVersion)
		}
		if old.Metadata.DeletionTimestamp != nil && p.Metadata.DeletionTimestamp == nil {
			w.h.found("pod %s: its deletion was taken back", p.Metadata.Name)
		}
		if old.is("Ready") && !p.is("Ready") {
			w.h.note("%s is not ready any more: %s", p.Metadata.Name, w.tell([]*pod{p}))
		}
		if old.over() && p.Status.Phase != old.Status.Phase {
			w.h.found("pod %s: phase %s after %s", p.Metadata.Name, p.Status.Phase, old.Status.Phase)
		}
	}
	w.pods[uid] = p
	for _, list := range [][]containerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for i := range list {
			w.seeContainer(p, &list[i])
		}
	}
}

func (w *world) seeContainer(p *pod, s *containerStatus) {
	k := containerKey{p.Metadata.UID, s.Name}
	if s.RestartCount < w.restarts[k] {
		w.h.found("pod %s, container %s: %d restarts after %d", p.Metadata.Name, s.Name, s.RestartCount, w.restarts[k])
	}
	w.restarts[k] = s.RestartCount
	if s.State.Running != nil {
		if a, ok := parse(s.ContainerID); !ok || a.containerKey != k || a.number != s.RestartCount {
			w.h.found("pod %s, container %s: %d restarts, and %q runs", p.Metadata.Name, s.Name, s.RestartCount, s.ContainerID)
		} else if e := w.attempt(a).end; e != nil {
			w.h.found("pod %s, container %s: %s runs, which has ended with %+v", p.Metadata.Name, s.Name, a, *e)
		}
	}
	for _, e := range []*end{s.LastState.Terminated, s.State.Terminated} {
		if e == nil {
			continue
		}
		a, ok := parse(e.ContainerID)
		if !ok || a.containerKey != k || a.number > s.RestartCount {
			w.h.found("pod %s, container %s: %d restarts, and the end is of %q", p.Metadata.Name, s.Name, s.RestartCount, e.ContainerID)
			continue
		}
		w.ended(p, a, e)
	}
}

// parse reads a container's ID.
func parse(text string) (k attemptKey, ok bool) {
	text = strings.TrimPrefix(text, "minirun://")
	uid, rest, ok1 := strings.Cut(text, "_")
	name, n, ok2 := strings.Cut(rest, "_")
	v, err := strconv.Atoi(n)
	return attemptKey{containerKey{uid, name}, v}, ok1 && ok2 && err == nil
}

func (w *world) attempt(k attemptKey) *attempt {
	a := w.attempts[k]
	if a == nil {
		a = &attempt{told: -1}
		w.attempts[k] = a
	}
	return a
}

// ended checks how an attempt has ended, with the lock.
func (w *world) ended(p *pod, k attemptKey, e *end) {
	a := w.attempt(k)
	if old := a.end; old != nil {
		if w.h.bounded && (old.ExitCode != e.ExitCode || old.Signal != e.Signal || (old.Reason == unknownReason) != (e.Reason == unknownReason)) {
			w.h.found("pod %s: %s ended with %+v, which was %+v before", p.Metadata.Name, k, *e, *old)
		}
		return
	}
	c := *e
	a.end = &c
	w.ends++
	if e.Reason == unknownReason {
		w.unknown++
	}
	if why := w.wrong(p, k, a, e); why != "" {
		w.h.found("pod %s: %s ended with %+v, %s (told %d, killed %v, monitor killed %v)", p.Metadata.Name, k, *e, why, a.told, ago(a.killed), ago(a.monitorKilled))
	}
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return time.Since(t).Round(time.Millisecond).String() + " ago"
}

const unknownReason = "ContainerStatusUnknown"

// wrong says why an end is one that cannot be.
func (w *world) wrong(p *pod, k attemptKey, a *attempt, e *end) string {
	if e.Reason == unknownReason {
		switch {
		case e.ExitCode != 137 || e.Signal != 0:
			return "although nobody knows"
		case a.monitorKilled.IsZero():
			return "which the monitor knows"
		case w.h.tellsExit && !w.h.d.without(a.monitorKilled, a.over(), w.h.slack):
			return "which the kernel has told minirund"
		}
		return ""
	}
	stopped := p.Metadata.DeletionTimestamp != nil
	switch {
	case strings.HasPrefix(k.name, "e") && e.Signal == 0 && e.ExitCode == int(number(k.name[1:])):
		return ""
	case a.told >= 0 && e.Signal == 0 && e.ExitCode == a.told:
		return ""
	case !a.killed.IsZero() && e.ExitCode == 137 && e.Signal == 9:
		return ""
	case !a.killed.IsZero() && e.ExitCode == 128 && e.Reason == "StartError":
		return "" // before its program was executed
	case !a.monitorKilled.IsZero() && e.ExitCode == 128 && e.Reason == "StartError" && strings.Contains(e.Message, "the container's monitor was killed"):
		return "" // in the moment of its start it ends with its monitor
	case strings.Contains(e.Message, "minirund was killed while it started") && e.ExitCode == 137:
		if w.h.d.killed() == 0 {
			return "although minirund was never killed"
		}
		return ""
	case stopped && e.ExitCode == 137 && e.Signal == 9:
		return ""
	case a.told >= 0 || !a.killed.IsZero() || stopped || strings.HasPrefix(k.name, "e"):
		return "which is not what was done to it"
	}
	return "although nothing was done to it"
}

// all are the pods that are there.
func (w *world) all() (list []*pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.pods {
		list = append(list, p)
	}
	return list
}

// check has the bounds of all objects looked at, and wakes who waits for a change.
func (w *world) check() {
	w.h.bounds()
	select {
	case w.changed <- struct{}{}:
	default:
	}
}
