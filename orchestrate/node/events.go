package node

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/store"
)

// event is something that people should know of a pod.
type event struct {
	ref                   corev1.ObjectReference
	kind, reason, message string
	at                    time.Time
}

// tellPeople reports something. It does not wait for the disk.
func (w *worker) tellPeople(pod *corev1.Pod, c *corev1.Container, kind, reason, message string) {
	if len(message) > 1024 {
		message = message[:1024]
	}
	ref := corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion}
	if c != nil {
		field := "containers"
		for i := range pod.Spec.InitContainers {
			if pod.Spec.InitContainers[i].Name == c.Name {
				field = "initContainers"
			}
		}
		if findEphemeral(&pod.Spec, c.Name) != nil {
			field = "ephemeralContainers"
		}
		ref.FieldPath = "spec." + field + "{" + c.Name + "}"
	}
	e := event{ref, kind, reason, message, time.Now()}
	select {
	case w.n.events <- e:
	default:
		w.n.log.Warn("an event is lost", "pod", w.String(), "reason", reason)
	}
}

func (w *worker) normal(pod *corev1.Pod, c *corev1.Container, reason, format string, args ...any) {
	w.tellPeople(pod, c, corev1.EventTypeNormal, reason, fmt.Sprintf(format, args...))
}

func (w *worker) warning(pod *corev1.Pod, c *corev1.Container, reason, format string, args ...any) {
	w.tellPeople(pod, c, corev1.EventTypeWarning, reason, fmt.Sprintf(format, args...))
}

// writeEvents writes events into the store until ctx ends.
func (n *Node) writeEvents(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-n.events:
			if err := n.writeEvent(&e); err != nil && !errors.Is(err, store.ErrClosed) {
				n.log.Warn("an event is lost", "pod", e.ref.Name, "reason", e.reason, "error", err)
			}
		}
	}
}

// writeEvent stores an event; the same again is counted.
func (n *Node) writeEvent(e *event) error {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s\x00%s\x00%s", e.ref.UID, e.ref.FieldPath, e.reason, e.message)
	name := fmt.Sprintf("%s.%016x", e.ref.Name, h.Sum64())
	at := metav1.NewTime(e.at).Rfc3339Copy()
	old, err := n.o.Store.Get(events, e.ref.Namespace, name)
	if err == nil {
		have := old.DeepCopyObject().(*corev1.Event)
		have.Count++
		have.LastTimestamp = at
		have.ResourceVersion = ""
		_, err = n.o.Store.Update(events, have, store.Main)
		return err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, err = n.o.Store.Create(events, &corev1.Event{
		TypeMeta:       metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta:     metav1.ObjectMeta{Namespace: e.ref.Namespace, Name: name},
		InvolvedObject: e.ref, Reason: e.reason, Message: e.message, Type: e.kind, Count: 1, FirstTimestamp: at, LastTimestamp: at,
		Source: corev1.EventSource{Component: "kubelet", Host: n.o.NodeName}, ReportingController: "kubelet", ReportingInstance: n.o.NodeName,
	})
	return err
}
