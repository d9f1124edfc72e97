package proxy

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/minirun/minirun/network/service"
	"github.com/minirun/minirun/orchestrate/store"
)

// Run watches Services until ctx ends. The rules stay.
func (p *Proxy) Run(ctx context.Context) error {
	for {
		err := p.run(ctx)
		var gone *store.GoneError
		switch {
		case ctx.Err() != nil, errors.Is(err, store.ErrClosed):
			return nil
		case !errors.As(err, &gone):
			return err
		}
		p.log.Warn("changes were missed, all Services are compared", "error", err)
	}
}

func (p *Proxy) run(ctx context.Context) error {
	w, err := p.s.Watch("", store.Selector{}, p.s.Revision())
	if err != nil {
		return err
	}
	p.mu.Lock()
	err = p.load()
	if err == nil {
		err = p.replace()
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	for {
		e, err := w.Next(ctx)
		if err != nil {
			return err
		}
		if err := p.see(e); err != nil {
			return err
		}
	}
}

// see does what a change of an object asks for.
func (p *Proxy) see(e store.Event) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch o := e.Object.(type) {
	case *corev1.Service:
		if e.Type == store.Deleted {
			return p.b.Apply(nil, []string{name(o)})
		}
		return p.update(o)
	case *discoveryv1.EndpointSlice:
		s, err := p.s.Get(serviceKind, o.Namespace, o.Labels[discoveryv1.LabelServiceName])
		if err != nil {
			return nil // nobody's, or the Service's own event comes
		}
		if svc := s.(*corev1.Service); len(svc.Spec.Selector) == 0 {
			return p.update(svc)
		}
	case *corev1.Pod:
		return p.seePod(e.Type, o)
	}
	return nil
}

// seePod takes in new labels of a pod, and its end if nobody told us.
func (p *Proxy) seePod(what store.EventType, pod *corev1.Pod) error {
	b := p.pods[pod.UID]
	changed := false
	switch {
	case b != nil && what == store.Deleted:
		delete(p.pods, pod.UID)
		changed = true
	case b != nil:
		changed = !same(b.pod.Labels, pod.Labels)
		b.pod = pod
	}
	l, err := p.s.List(serviceKind, store.Selector{Namespace: pod.Namespace}, 0, "")
	if err != nil {
		return err
	}
	for _, o := range l.Items {
		if s := o.(*corev1.Service); changed || s.Spec.PublishNotReadyAddresses {
			if err := p.update(s); err != nil {
				return err
			}
		}
	}
	return nil
}

func same(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

// update brings one Service to the kernel. One that cannot be is logged, and the
// others go on.
func (p *Proxy) update(s *corev1.Service) error {
	svc, ok := p.build(s)
	if !ok {
		return p.b.Apply(nil, []string{name(s)})
	}
	err := p.b.Apply([]service.Service{svc}, nil)
	var conflict *service.ConflictError
	if invalid := svc.Validate(); invalid != nil || errors.As(err, &conflict) {
		p.log.Error("a Service has no effect", "service", svc.Name, "error", errors.Join(invalid, err))
		return nil
	}
	return err
}

// Close lets go of the sockets. The rules stay.
func (p *Proxy) Close() error { return p.b.Close() }
