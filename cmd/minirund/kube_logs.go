package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/minirun/minirun/orchestrate/client"
	"github.com/minirun/minirun/orchestrate/podlife"
)

// copyLogs prints logs one after the other, or, when they are followed, together,
// whole lines at a time.
func (k *kube) copyLogs(sources []source, q url.Values) error {
	c := &logCopy{k: k}
	errs := make([]error, len(sources))
	if !k.c.Bool("follow") {
		for i, s := range sources {
			errs[i] = c.run(s, q, -1)
		}
		return errors.Join(errs...)
	}
	var wg sync.WaitGroup
	for i, s := range sources {
		wg.Go(func() { errs[i] = c.follow(s, q) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// logCopy prints lines of several logs.
type logCopy struct {
	k  *kube
	mu sync.Mutex
}

// run prints the log of one run of a container, or what q asks for.
func (c *logCopy) run(s source, q url.Values, number int32) error {
	k := c.k
	x, err := k.kind("pods")
	if err != nil {
		return err
	}
	mine := url.Values{}
	for name, v := range q {
		mine[name] = slices.Clone(v)
	}
	mine.Set("container", s.container)
	if number >= 0 {
		mine.Set("run", strconv.Itoa(int(number)))
	}
	resp, err := k.api.Do(k.ctx, get(withQuery(k.path(ref{x, s.pod}, "log"), mine)))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	prefix := ""
	if k.c.Bool("prefix") {
		prefix = fmt.Sprintf("[pod/%s/%s] ", s.pod, s.container)
	}
	r := bufio.NewReader(resp.Body)
	for {
		line, err := r.ReadSlice('\n')
		if len(line) > 0 {
			c.mu.Lock()
			if prefix != "" {
				io.WriteString(k.u.out, prefix)
			}
			_, werr := k.u.out.Write(line)
			c.mu.Unlock()
			if werr != nil {
				return werr
			}
		}
		switch {
		case errors.Is(err, io.EOF), k.ctx.Err() != nil:
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

// follow prints the log of a container and goes on with its next run when one has
// ended, until there will be none.
func (c *logCopy) follow(s source, q url.Values) error {
	k := c.k
	x, err := k.kind("pods")
	if err != nil {
		return err
	}
	var p corev1.Pod
	if err := k.api.Get(k.ctx, k.path(ref{x, s.pod}), &p); err != nil {
		return err
	}
	number, uid := int32(-1), string(p.UID)
	if st := containerStatus(&p, s.container); st != nil && (st.State.Running != nil || st.State.Terminated != nil || st.LastTerminationState.Terminated != nil) {
		number = st.RestartCount
	}
	for _, one := range []string{"previous", "limitBytes", "run"} {
		if q.Has(one) {
			return c.run(s, q, -1)
		}
	}
	if err := c.run(s, q, number); err != nil || k.ctx.Err() != nil {
		return err
	}
	rest := url.Values{}
	for _, name := range []string{"follow", "timestamps"} {
		if v, ok := q[name]; ok {
			rest[name] = v
		}
	}
	for number = max(number, 0) + 1; ; number++ {
		more := false
		err := k.until(k.ctx, ref{x, s.pod}, func(o object) (bool, error) {
			if o == nil || o.str("metadata", "uid") != uid {
				more = false
				return true, nil
			}
			p, err := asPod(o)
			if err != nil {
				return false, err
			}
			var over bool
			more, over = nextRun(p, s.container, number)
			return more || over, nil
		})
		if err != nil || !more {
			if k.ctx.Err() != nil {
				return nil // the user has seen enough
			}
			return err
		}
		var st *client.StatusError
		if err := c.run(s, rest, number); errors.As(err, &st) && st.Code == 400 {
			continue // it went before we came: many were short
		} else if err != nil || k.ctx.Err() != nil {
			return err
		}
	}
}

func asPod(o object) (*corev1.Pod, error) {
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	p := &corev1.Pod{}
	return p, json.Unmarshal(raw, p)
}

func containerStatus(p *corev1.Pod, name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// nextRun tells whether a run of a container has begun, and otherwise whether it
// never will.
func nextRun(p *corev1.Pod, name string, number int32) (begun, never bool) {
	st := containerStatus(p, name)
	if st != nil && st.RestartCount >= number && (st.State.Running != nil || st.State.Terminated != nil || st.LastTerminationState.Terminated != nil) {
		return true, false
	}
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.DeletionTimestamp != nil {
		return false, true
	}
	if st == nil || st.State.Terminated == nil {
		return false, false
	}
	policy := p.Spec.RestartPolicy
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.Name != name {
			continue
		}
		switch {
		case c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways:
			policy = corev1.RestartPolicyAlways
		case policy != corev1.RestartPolicyNever:
			policy = corev1.RestartPolicyOnFailure
		}
	}
	for i := range p.Spec.EphemeralContainers {
		if p.Spec.EphemeralContainers[i].Name == name {
			return false, true
		}
	}
	return false, !podlife.Again(policy, st.State.Terminated.ExitCode)
}
