package kills

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// settle kills nothing until all is as wanted, and checks that it becomes so.
func (h *hammer) settle() error {
	h.note("settle")
	h.wg.Wait()
	if err := h.d.await(); err != nil {
		return err
	}
	for _, o := range h.objects {
		o.mu.Lock()
		maybe := len(o.maybe)
		o.mu.Unlock()
		if maybe > 0 {
			if err := o.resolve(); err != nil {
				return err
			}
		}
	}
	if err := h.survey(); err != nil {
		return err
	}
	deadline := time.Now().Add(h.limit(90 * time.Second))
	var missing []string
	for !h.failed() {
		if missing = h.unsettled(); len(missing) == 0 {
			break
		}
		if time.Now().After(deadline) {
			h.found("after %s without a kill: %s", h.limit(90*time.Second), strings.Join(missing, "; "))
			return nil
		}
		select {
		case <-h.w.changed:
		case <-h.d.ended:
			return nil
		case <-time.After(200 * time.Millisecond):
		}
	}
	if err := h.survey(); err != nil {
		return err
	}
	h.starts()
	if h.failed() {
		return nil
	}
	for _, o := range h.objects {
		o.mu.Lock()
		o.most, o.least, o.steady, o.hits = o.now.replicas, o.now.replicas, true, map[string]bool{}
		o.mu.Unlock()
	}
	h.note("settled")
	return nil
}

// starts compares what containers have written when they began with how often they
// can have been started.
func (h *hammer) starts() {
	raw, err := os.ReadFile(h.shared + "/starts")
	if err != nil || !h.bounded {
		return
	}
	ran := map[string]int{}
	for line := range strings.Lines(string(raw)) {
		ran[strings.TrimSpace(line)]++
	}
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	for uid, p := range h.w.pods {
		for _, s := range p.Status.ContainerStatuses {
			if s.Name == "c" && ran[uid] > s.RestartCount+1 {
				h.found("pod %s: %d restarts, and its container was started %d times", p.Metadata.Name, s.RestartCount, ran[uid])
			}
		}
	}
}

// unsettled lists what is not as wanted.
func (h *hammer) unsettled() (out []string) {
	running := map[attemptKey]bool{}
	for _, p := range h.scan() {
		running[p.key] = true
	}
	h.w.mu.Lock()
	if h.w.of != h.d.killed() {
		out = append(out, "minirund has yet to be looked at")
	}
	for _, p := range h.w.pods {
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			k, ok := parse(s.ContainerID)
			if says := s.State.Running != nil; ok && says != running[k] {
				out = append(out, fmt.Sprintf("%s of pod %s: its status says that it runs: %v, its processes: %v", k, p.Metadata.Name, says, running[k]))
			}
			if a := h.w.attempts[k]; ok && a != nil && s.State.Running != nil && (a.told >= 0 || !a.killed.IsZero() && a.victim == a.init) {
				out = append(out, fmt.Sprintf("%s has yet to end", k))
			}
			delete(running, k)
		}
	}
	for k := range running {
		out = append(out, fmt.Sprintf("processes of %s, which no pod has", k))
	}
	for _, o := range h.objects {
		o.mu.Lock()
		if why := h.w.lacks(o); why != "" {
			out = append(out, o.name+": "+why)
		}
		o.mu.Unlock()
	}
	h.w.mu.Unlock()
	if len(out) > 0 {
		return out
	}
	// The objects say the same.
	for _, o := range h.objects {
		if o.kind == barePod || !o.now.exists {
			continue
		}
		var b object
		err := h.d.get(o.path()+"/"+o.name, &b)
		if errors.Is(err, os.ErrNotExist) {
			h.found("%s is gone", o)
			continue
		}
		if err != nil {
			return append(out, err.Error())
		}
		s := &b.Status
		n := o.now.replicas
		switch o.kind {
		case deployment:
			if s.ObservedGeneration != b.Metadata.Generation || s.Replicas != n || s.ReadyReplicas != n || s.AvailableReplicas != n || s.UpdatedReplicas != n {
				out = append(out, fmt.Sprintf("%s: status %+v, generation %d, wanted %d", o.name, *s, b.Metadata.Generation, n))
			}
		case statefulSet:
			if s.ObservedGeneration != b.Metadata.Generation || s.Replicas != n || s.ReadyReplicas != n || s.UpdatedReplicas != n {
				out = append(out, fmt.Sprintf("%s: status %+v, generation %d, wanted %d", o.name, *s, b.Metadata.Generation, n))
			}
		case job:
			h.job(o, &b)
		}
	}
	return out
}

// job checks the numbers of a job.
func (h *hammer) job(o *wanted, b *object) {
	done := false
	for _, c := range b.Status.Conditions {
		done = done || c.Type == "Complete" && c.Status == "True"
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch n := b.Status.Succeeded; {
	case n < o.succeeded || n > o.shape.completions:
		h.found("%s: %d pods succeeded, %d before, %d wanted", o, n, o.succeeded, o.shape.completions)
	case done && n != o.shape.completions:
		h.found("%s is complete with %d of %d pods", o, n, o.shape.completions)
	default:
		o.succeeded = n
	}
}

// lacks says what is missing of an object, with both locks.
func (w *world) lacks(o *wanted) string {
	if o.instance == 0 {
		return ""
	}
	pods := w.podsOf(o)
	if !o.now.exists {
		if len(pods) > 0 {
			return fmt.Sprintf("was deleted, and has %d pods, %s", len(pods), w.tell(pods))
		}
		return ""
	}
	switch o.kind {
	case deployment, statefulSet:
		if len(pods) != o.now.replicas {
			return fmt.Sprintf("has %d pods, wanted are %d: %s", len(pods), o.now.replicas, w.tell(pods))
		}
		for i, p := range pods {
			if p.version() != fmt.Sprint(o.now.version) || !p.is("Ready") || p.Metadata.DeletionTimestamp != nil {
				return fmt.Sprintf("version %d is wanted, pods are %s", o.now.version, w.tell(pods))
			}
			if name := fmt.Sprintf("%s-%d", o.name, i); o.kind == statefulSet && p.Metadata.Name != name {
				return fmt.Sprintf("has pod %s, not %s", p.Metadata.Name, name)
			}
		}
	case barePod:
		if len(pods) != 1 {
			return fmt.Sprintf("has %d pods", len(pods))
		}
		return w.restless(pods[0], o.shape.policy)
	case job:
		for _, p := range pods {
			if p.Metadata.DeletionTimestamp == nil && !p.over() && !p.is("Ready") {
				return w.tell(pods)
			}
		}
	}
	return ""
}

// restless says what a pod that nobody looks after has still to become.
func (w *world) restless(p *pod, policy string) string {
	ends := true
	for _, s := range p.Status.InitContainerStatuses {
		if t := s.State.Terminated; policy == "Never" && t != nil && t.ExitCode != 0 && p.over() {
			return "" // it was killed, and with it the pod has failed
		}
	}
	for _, s := range p.Status.ContainerStatuses {
		t := s.State.Terminated
		switch {
		case s.State.Running != nil:
			ends = false
		case t == nil, policy == "Always", policy == "OnFailure" && t.ExitCode != 0:
			return w.tell([]*pod{p})
		}
		if s.State.Running != nil && strings.HasPrefix(s.Name, "e") {
			return "has yet to end"
		}
	}
	if len(p.Status.ContainerStatuses) == 0 || ends != p.over() {
		return w.tell([]*pod{p})
	}
	return ""
}

// tell shows pods in a few words.
func (w *world) tell(pods []*pod) string {
	var out []string
	for _, p := range pods {
		text := fmt.Sprintf("%s v%s %s", p.Metadata.Name, p.version(), p.Status.Phase)
		if p.is("Ready") {
			text += " ready"
		}
		if p.Metadata.DeletionTimestamp != nil {
			text += " deleted"
		}
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			text += fmt.Sprintf(" %s:%d", s.Name, s.RestartCount)
			switch {
			case s.State.Running != nil:
				text += "runs"
			case s.State.Terminated != nil:
				text += fmt.Sprintf("ended(%d)", s.State.Terminated.ExitCode)
			case s.State.Waiting != nil:
				text += fmt.Sprintf("waits(%s %s)", s.State.Waiting.Reason, s.State.Waiting.Message)
			}
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}
