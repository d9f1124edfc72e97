package kills

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
)

// kind is a kind of objects.
type kind int

const (
	deployment kind = iota
	statefulSet
	job
	barePod
)

// base is where the API has objects of a kind.
var base = map[kind]string{
	deployment:  "/apis/apps/v1/namespaces/default/deployments",
	statefulSet: "/apis/apps/v1/namespaces/default/statefulsets",
	job:         "/apis/batch/v1/namespaces/default/jobs",
	barePod:     "/api/v1/namespaces/default/pods",
}

// state is what an object is like after a write.
type state struct {
	exists   bool
	seq      int // of the write
	replicas int
	version  int // of the template
}

// wanted is an object, or a name that one may have.
type wanted struct {
	h    *hammer
	kind kind
	name string

	mu       sync.Mutex
	busy     bool
	now      state
	maybe    []state // what else may be true after a write that was not answered
	instance int     // in the labels of its pods; another one for each creation
	next     int     // of writes
	versions int     // how many templates there were
	shape    shape

	// Bounds since it was last seen settled.
	most, least int
	steady      bool
	hits        map[string]bool // uids of pods that something was done to
	succeeded   int             // of a job
}

// shape is what does not change in the life of an object.
type shape struct {
	surge, unavailable int
	recreate, parallel bool
	policy             string
	completions        int
	probe, init, two   bool
	mount, grace       int
	code               int // of a container that ends by itself, -1 for none
}

func (o *wanted) String() string { return fmt.Sprintf("%s %s", strings.Trim(o.path(), "/"), o.name) }

func (o *wanted) path() string { return base[o.kind] }

func (o *wanted) label() string { return fmt.Sprintf("i%d", o.instance) }

// podSpec is a small pod that waits to be told how to end.
func (o *wanted) podSpec(version int) map[string]any {
	s := &o.shape
	env := []any{map[string]any{"name": "V", "value": fmt.Sprint(version)}, map[string]any{"name": "U", "valueFrom": map[string]any{"fieldRef": map[string]any{"fieldPath": "metadata.uid"}}}}
	script := "while ! read x < /gate; do :; done; exit $x" // a signal interrupts it
	c := map[string]any{"name": "c", "image": "kills", "imagePullPolicy": "Never", "env": env}
	spec := map[string]any{"terminationGracePeriodSeconds": s.grace}
	if s.mount == 1 {
		script = "echo $U >> /v/starts; " + script
		c["volumeMounts"] = []any{map[string]any{"name": "v", "mountPath": "/v"}, map[string]any{"name": "e", "mountPath": "/e"}}
		spec["volumes"] = []any{
			map[string]any{"name": "v", "hostPath": map[string]any{"path": o.h.shared}}, map[string]any{"name": "e", "emptyDir": map[string]any{"medium": "Memory"}},
		}
	}
	c["command"] = []any{"/bin/busybox", "sh", "-c", script}
	c["lifecycle"] = map[string]any{"stopSignal": "SIGKILL"} // process 1 ignores the others
	if s.probe {
		c["readinessProbe"] = map[string]any{"exec": map[string]any{"command": []any{"/bin/busybox", "true"}}, "periodSeconds": 1, "timeoutSeconds": 60}
	}
	list := []any{c}
	if s.two {
		list = append(list, map[string]any{"name": "d", "image": "kills", "imagePullPolicy": "Never", "command": []any{"/bin/busybox", "sleep", "100000"}, "lifecycle": c["lifecycle"]})
	}
	if s.code >= 0 {
		list = append(list, map[string]any{"name": fmt.Sprintf("e%d", s.code), "image": "kills", "imagePullPolicy": "Never", "command": []any{"/bin/busybox", "sh", "-c", fmt.Sprintf("sleep 0.2; exit %d", s.code)}})
	}
	if s.init {
		spec["initContainers"] = []any{map[string]any{"name": "e0", "image": "kills", "imagePullPolicy": "Never", "command": []any{"/bin/busybox", "true"}}}
	}
	spec["containers"] = list
	if s.policy != "" {
		spec["restartPolicy"] = s.policy
	}
	return spec
}

// manifest is the whole object.
func (o *wanted) manifest(s state) map[string]any {
	meta := map[string]any{"name": o.name, "namespace": "default", "annotations": map[string]any{"seq": fmt.Sprint(s.seq)}, "labels": map[string]any{"i": o.label()}}
	template := map[string]any{"metadata": map[string]any{"labels": map[string]any{"i": o.label()}}, "spec": o.podSpec(s.version)}
	selector := map[string]any{"matchLabels": map[string]any{"i": o.label()}}
	m := map[string]any{"metadata": meta}
	switch o.kind {
	case deployment:
		strategy := map[string]any{"type": "Recreate"}
		if !o.shape.recreate {
			strategy = map[string]any{"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxSurge": o.shape.surge, "maxUnavailable": o.shape.unavailable}}
		}
		m["apiVersion"], m["kind"] = "apps/v1", "Deployment"
		m["spec"] = map[string]any{"replicas": s.replicas, "selector": selector, "strategy": strategy, "template": template}
	case statefulSet:
		policy := "OrderedReady"
		if o.shape.parallel {
			policy = "Parallel"
		}
		m["apiVersion"], m["kind"] = "apps/v1", "StatefulSet"
		m["spec"] = map[string]any{"replicas": s.replicas, "selector": selector, "serviceName": o.name, "podManagementPolicy": policy, "template": template}
	case job:
		m["apiVersion"], m["kind"] = "batch/v1", "Job"
		m["spec"] = map[string]any{"parallelism": s.replicas, "completions": o.shape.completions, "backoffLimit": 100000, "template": template}
	case barePod:
		m["apiVersion"], m["kind"] = "v1", "Pod"
		m["spec"] = o.podSpec(s.version)
	}
	return m
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// object is what the API says of an object.
type object struct {
	Metadata struct {
		Name, UID, ResourceVersion string
		Generation                 int64
		DeletionTimestamp          *string
		Annotations, Labels        map[string]string
	}
	Spec struct {
		Replicas, Parallelism *int
		Template              struct{ Spec json.RawMessage }
	}
	Status struct {
		ObservedGeneration                                        int64
		Replicas, ReadyReplicas, AvailableReplicas                int
		UpdatedReplicas, Active, Succeeded, Failed, Terminating   int
		Conditions                                                []struct{ Type, Status, Reason string }
		UncountedTerminatedPods                                   struct{ Succeeded, Failed []string }
		CurrentRevision, UpdateRevision, CompletedIndexes, Unused string
	}
}

// state is the one that the object is in.
func (o *wanted) state(b *object) state {
	if b == nil || b.Metadata.DeletionTimestamp != nil || b.Metadata.Labels["i"] != o.label() {
		return state{}
	}
	s := state{exists: true, seq: int(number(b.Metadata.Annotations["seq"]))}
	var spec struct {
		Containers []struct {
			Env []struct{ Name, Value string }
		}
	}
	_ = json.Unmarshal(b.Spec.Template.Spec, &spec)
	for _, c := range spec.Containers {
		for _, e := range c.Env {
			if e.Name == "V" {
				s.version = int(number(e.Value))
			}
		}
	}
	switch {
	case b.Spec.Replicas != nil:
		s.replicas = *b.Spec.Replicas
	case b.Spec.Parallelism != nil:
		s.replicas = *b.Spec.Parallelism
	}
	return s
}

// same tells whether the object that is there is one that may be. What is in the
// template of a bare pod cannot be changed.
func (o *wanted) same(want, have state) bool {
	if want.exists != have.exists || !want.exists {
		return want.exists == have.exists
	}
	if o.kind == barePod {
		return want.seq == have.seq
	}
	return want == have
}

// compare checks what there is of an object against what was acknowledged. It may
// not be busy.
func (o *wanted) compare(b *object) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.busy {
		return
	}
	have := o.state(b)
	if o.same(o.now, have) {
		return
	}
	for _, s := range o.maybe {
		if o.same(s, have) {
			o.h.note("%s: the write %d came through", o, s.seq)
			o.now, o.maybe = s, nil
			return
		}
	}
	o.h.found("%s is %+v, acknowledged was %+v, possible %+v", o, have, o.now, o.maybe)
}

// survey compares all objects with what was acknowledged.
func (h *hammer) survey() error {
	for k, path := range base {
		// Who is busy now is not looked at: the list may be from before or after.
		idle := map[*wanted]state{}
		for _, o := range h.objects {
			o.mu.Lock()
			if o.kind == k && !o.busy {
				idle[o] = o.now
			}
			o.mu.Unlock()
		}
		before := h.w.newest()
		var list struct {
			Metadata struct{ ResourceVersion string }
			Items    []*object
		}
		if err := h.d.get(path, &list); err != nil {
			return err
		}
		if v := number(list.Metadata.ResourceVersion); v < before {
			h.found("resourceVersion went back: %s has %d, %d was there before", path, v, before)
		}
		byName := map[string]*object{}
		for _, b := range list.Items {
			byName[b.Metadata.Name] = b
		}
		for o, then := range idle {
			o.mu.Lock()
			unchanged := !o.busy && o.now == then
			o.mu.Unlock()
			if unchanged {
				o.compare(byName[o.name])
			}
		}
	}
	return nil
}

// change is one write.
type change struct {
	o      *wanted
	what   string
	method string
	path   string
	kind   string // of the content
	body   string
	then   state
	query  string
}

// begin has a change made, beside others. The caller is the only one to begin any.
func (h *hammer) begin(c change) {
	o := c.o
	o.mu.Lock()
	o.busy = true
	o.most, o.least = max(o.most, c.then.replicas), min(o.least, c.then.replicas)
	o.mu.Unlock()
	h.note("%s %s: %s", c.what, o, c.body[:min(len(c.body), 120)])
	h.wg.Go(func() {
		h.carry(c)
		o.mu.Lock()
		o.busy = false
		o.mu.Unlock()
	})
}

func (h *hammer) carry(c change) {
	o := c.o
	path := c.path
	if path == "" {
		path = o.path() + "/" + o.name
	}
	before := h.w.newest()
	a, err := h.d.do(c.method, path+c.query, c.kind, c.body)
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case errors.Is(err, errNotSent):
		h.note("%s %s, write %d: not sent", c.what, o, c.then.seq)
	case err != nil:
		h.note("%s %s, write %d: no answer: %v", c.what, o, c.then.seq, err)
		o.maybe = append(o.maybe, c.then)
	case a.code < 300:
		var b object
		if err := json.Unmarshal(a.body, &b); err != nil {
			h.found("%s %s: %v in %s", c.what, o, err, a)
			return
		}
		if v := number(b.Metadata.ResourceVersion); c.method != http.MethodDelete {
			if v <= before {
				h.found("%s %s has version %d, %d was there before", c.what, o, v, before)
			}
			h.w.acknowledged(v)
			if have := o.state(&b); !o.same(c.then, have) {
				h.found("%s %s was answered with %+v, want %+v", c.what, o, have, c.then)
			}
		}
		o.now, o.maybe = c.then, nil
	case len(o.maybe) > 0 && (a.code == http.StatusConflict || a.code == http.StatusNotFound):
		h.note("%s %s, write %d: %s", c.what, o, c.then.seq, a)
	default:
		h.found("%s %s: %s", c.what, o, a)
	}
}

// resolve finds out which of the writes that were not answered came through.
func (o *wanted) resolve() error {
	var b object
	err := o.h.d.get(o.path()+"/"+o.name, &b)
	if errors.Is(err, os.ErrNotExist) {
		o.compare(nil)
		err = nil
	} else if err == nil {
		o.compare(&b)
	}
	o.mu.Lock()
	o.maybe = nil
	o.mu.Unlock()
	return err
}

// pick chooses a change of an object.
func (h *hammer) pick(o *wanted) (c change, ok bool) {
	o.mu.Lock()
	busy, maybe, now := o.busy, len(o.maybe), o.now
	o.mu.Unlock()
	if busy {
		return c, false
	}
	if maybe > 0 {
		if err := o.resolve(); err != nil {
			return c, false
		}
		o.mu.Lock()
		now = o.now
		o.mu.Unlock()
	}
	if !now.exists {
		return h.creation(o)
	}
	o.next++
	s := now
	s.seq = o.next
	c = change{o: o, method: http.MethodPatch, kind: "application/merge-patch+json"}
	notes := map[string]any{"annotations": map[string]any{"seq": fmt.Sprint(s.seq)}}
	dice := h.r.IntN(100)
	switch {
	case o.kind == barePod || o.kind == job || dice < 6:
		if o.kind == job && !h.overJob(o) && dice > 5 || o.kind == barePod && dice > 20 && !h.overPod(o) {
			return c, false
		}
		c.what, c.method, c.kind, c.then = "delete", http.MethodDelete, "", state{}
		if o.kind != barePod {
			c.query = "?propagationPolicy=" + []string{"Background", "Foreground"}[h.r.IntN(2)]
		}
	case dice < 45: // another template
		o.versions++
		s.version = o.versions
		c.what, c.then = "update", s
		c.body = text(map[string]any{"metadata": notes, "spec": map[string]any{"template": map[string]any{"spec": o.podSpec(s.version)}}})
	case dice < 55 && o.versions > 1: // an earlier one
		s.version = 1 + h.r.IntN(o.versions)
		c.what, c.then = "roll back", s
		c.body = text(map[string]any{"metadata": notes, "spec": map[string]any{"template": map[string]any{"spec": o.podSpec(s.version)}}})
	case dice < 75:
		s.replicas = h.r.IntN(h.replicas + 1)
		c.what, c.then = "scale", s
		c.body = text(map[string]any{"metadata": notes, "spec": map[string]any{"replicas": s.replicas}})
	default: // all of it
		o.versions++
		s.version, s.replicas = o.versions, h.r.IntN(h.replicas+1)
		c.what, c.then, c.kind, c.query = "apply", s, "application/apply-patch+yaml", "?fieldManager=kills&force=true"
		c.body = text(o.manifest(s))
	}
	return c, true
}

// creation makes the object, if nothing of an earlier one of its name is left.
func (h *hammer) creation(o *wanted) (c change, ok bool) {
	if err := h.d.get(o.path()+"/"+o.name, &object{}); !errors.Is(err, os.ErrNotExist) {
		return c, false
	}
	h.instances++
	r := h.r
	o.mu.Lock()
	defer o.mu.Unlock()
	o.instance = h.instances
	o.next++
	o.versions++
	o.shape = shape{surge: 1 + r.IntN(2), unavailable: r.IntN(2), recreate: r.IntN(6) == 0, parallel: r.IntN(2) == 0, probe: r.IntN(6) == 0, init: r.IntN(5) == 0, two: r.IntN(6) == 0, mount: r.IntN(2), code: -1}
	if r.IntN(5) > 0 { // without grace the object goes before its processes
		o.shape.grace = 1
	}
	s := state{exists: true, seq: o.next, replicas: 1 + r.IntN(h.replicas), version: o.versions}
	switch o.kind {
	case job:
		o.shape.policy, o.shape.completions, o.shape.two, o.shape.probe = "Never", 1+r.IntN(6), false, false
		s.replicas = 1 + r.IntN(3)
	case barePod:
		o.shape.policy = []string{"Always", "OnFailure", "Never"}[r.IntN(3)]
		if o.shape.policy == "Never" && r.IntN(2) == 0 {
			o.shape.code = r.IntN(256)
		}
		s.replicas = 1
	}
	o.most, o.least, o.steady, o.hits, o.succeeded = s.replicas, 0, false, map[string]bool{}, 0
	return change{o: o, what: "create", method: http.MethodPost, path: o.path(), body: text(o.manifest(s)), then: s}, true
}

// podsOf are those that an object has made, with the world's lock.
func (w *world) podsOf(o *wanted) (list []*pod) {
	for _, p := range w.pods {
		if p.Metadata.Labels["i"] == o.label() {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b *pod) int { return strings.Compare(a.Metadata.Name, b.Metadata.Name) })
	return list
}

func (h *hammer) overPod(o *wanted) bool {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	for _, p := range h.w.podsOf(o) {
		if p.over() {
			return true
		}
	}
	return false
}

func (h *hammer) overJob(o *wanted) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.succeeded >= o.shape.completions
}

// hit notes that something was done to a pod.
func (h *hammer) hit(uid string) {
	h.w.mu.Lock()
	p := h.w.pods[uid]
	h.w.mu.Unlock()
	for _, o := range h.objects {
		o.mu.Lock()
		if p == nil { // nobody has seen it yet
			o.steady = false
		} else if o.hits != nil && p.Metadata.Labels["i"] == o.label() {
			o.hits[uid] = true
		}
		o.mu.Unlock()
	}
}

// bounds checks what controllers promise, after every change of a pod.
func (h *hammer) bounds() {
	if !h.bounded {
		return
	}
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	for _, o := range h.objects {
		o.mu.Lock()
		h.bound(o)
		o.mu.Unlock()
	}
}

func (h *hammer) bound(o *wanted) {
	if o.kind != deployment && o.kind != statefulSet && o.kind != job || o.instance == 0 {
		return
	}
	active, ready := 0, 0
	for _, p := range h.w.podsOf(o) {
		if p.active() {
			active++
			if p.is("Ready") {
				ready++
			}
		}
	}
	most := o.most
	if o.kind == deployment && !o.shape.recreate {
		most += o.shape.surge
	}
	if active > most {
		h.found("%s has %d pods, its ceiling is %d: %s", o, active, most, h.w.tell(h.w.podsOf(o)))
	}
	if o.kind != deployment || o.shape.recreate || !o.steady || !o.now.exists || o.busy || len(o.maybe) > 0 {
		return
	}
	if floor := o.least - o.shape.unavailable - len(o.hits); ready < floor {
		h.found("%s has %d ready pods, its floor is %d of %d, %d of them were hit: %s", o, ready, floor, o.least, len(o.hits), h.w.tell(h.w.podsOf(o)))
	}
}
