package rollout

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// controlledBy tells whether the object's controller has that uid.
func controlledBy(o metav1.Object, uid types.UID) bool {
	c := metav1.GetControllerOfNoCopy(o)
	return c != nil && c.UID == uid
}

// Claim sorts objects by what an owner with that selector has to do with them:
// mine are those that it controls and selects; adopt those that it selects and
// nobody controls; release those that it controls and does not select any more.
// An owner that is being deleted adopts nothing. Objects that are being deleted
// are not adopted.
func Claim[O metav1.Object](owner metav1.Object, selector labels.Selector, objects []O) (mine, adopt, release []O) {
	for _, o := range objects {
		selected := selector.Matches(labels.Set(o.GetLabels()))
		switch c := metav1.GetControllerOfNoCopy(o); {
		case c != nil && c.UID != owner.GetUID():
		case c != nil && selected:
			mine = append(mine, o)
		case c != nil:
			if owner.GetDeletionTimestamp() == nil {
				release = append(release, o)
			}
		case selected && owner.GetDeletionTimestamp() == nil && o.GetDeletionTimestamp() == nil && owner.GetNamespace() == o.GetNamespace():
			adopt = append(adopt, o)
		}
	}
	return mine, adopt, release
}

// Active tells whether a pod counts towards the number wanted.
func Active(p *corev1.Pod) bool {
	return p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed && p.DeletionTimestamp == nil
}

// Waits after pods that the node has refused for good, as for a forbidden sysctl. The
// next ones of the same template will be, too, at once: without a wait a set would
// make pods as fast as it can.
const (
	firstRefusedWait = time.Second
	lastRefusedWait  = 5 * time.Minute
)

// refused tells whether the node has refused to run a pod.
func refused(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodFailed && p.Status.Reason == "SysctlForbidden"
}

// refusedUntil is when a set may make pods again: a second after the first that was
// refused, then twice as long each time.
func refusedUntil(pods []*corev1.Pod, then Then) (until time.Time) {
	wait := time.Duration(0)
	var last time.Time
	for _, p := range pods {
		if !refused(p) {
			continue
		}
		wait = min(max(2*wait, firstRefusedWait), lastRefusedWait)
		if at := then.created(p); at.After(last) {
			last = at
		}
	}
	if wait == 0 {
		return time.Time{}
	}
	return last.Add(time.Second + wait) // it has whole seconds
}

// keepEnded is how many pods of a set that the node has ended or refused stay to be
// looked at. The set makes others in their place, which may end likewise, and each
// keeps its logs and what it has written to its root.
const keepEnded = 10

// endedTooMany are those that are more, the oldest first.
func endedTooMany(pods []*corev1.Pod) []*corev1.Pod {
	var ended []*corev1.Pod
	for _, p := range pods {
		if p.DeletionTimestamp == nil && (refused(p) || p.Status.Phase == corev1.PodFailed && p.Status.Reason == "Evicted") {
			ended = append(ended, p)
		}
	}
	if len(ended) <= keepEnded {
		return nil
	}
	slices.SortFunc(ended, func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	return ended[:min(len(ended)-keepEnded, MaxBurst)]
}

func podCondition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// PodReady tells whether the pod's condition says so.
func PodReady(p *corev1.Pod) bool {
	c := podCondition(p, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// readySince is when a ready pod became that.
func readySince(p *corev1.Pod) time.Time {
	if c := podCondition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

// Then tells when a time of an object was, if the clock was set since; see package
// clock. Without one, nobody sets the clock.
type Then func(uid types.UID, t time.Time) time.Time

// At is when the time t of the object was.
func (f Then) At(uid types.UID, t time.Time) time.Time {
	if f == nil {
		return t
	}
	return f(uid, t)
}

// created is when a pod was.
func (f Then) created(p *corev1.Pod) time.Time { return f.At(p.UID, p.CreationTimestamp.Time) }

// readySince is that of a pod.
func (f Then) readySince(p *corev1.Pod) time.Time { return f.At(p.UID, readySince(p)) }

// PodAvailable tells whether the pod has been ready for long enough.
func PodAvailable(p *corev1.Pod, minReadySeconds int32, now time.Time) bool {
	return Then(nil).available(p, minReadySeconds, now)
}

func (f Then) available(p *corev1.Pod, minReadySeconds int32, now time.Time) bool {
	if !PodReady(p) {
		return false
	}
	since := f.readySince(p)
	return minReadySeconds == 0 || !since.IsZero() && !since.Add(time.Duration(minReadySeconds)*time.Second).After(now)
}

// restarts are those of all the pod's containers.
func restarts(p *corev1.Pod) (n int32) {
	for _, c := range p.Status.ContainerStatuses {
		n += c.RestartCount
	}
	return n
}

// mostRestarts are those of the container that was restarted most.
func mostRestarts(p *corev1.Pod) (n int32) {
	for _, c := range p.Status.ContainerStatuses {
		n = max(n, c.RestartCount)
	}
	return n
}

// DeletionCostAnnotation on a pod: those with less go first.
const DeletionCostAnnotation = "controller.kubernetes.io/pod-deletion-cost"

func deletionCost(p *corev1.Pod) int64 {
	n, err := strconv.ParseInt(p.Annotations[DeletionCostAnnotation], 10, 32)
	if err != nil {
		return 0
	}
	return n
}

// SortVictims sorts the pods of a set so that those to delete first come first:
// the ones that do least.
func SortVictims(pods []*corev1.Pod, now time.Time) {
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(
			first(a.Spec.NodeName == "", b.Spec.NodeName == ""),
			cmp.Compare(phaseRank(a), phaseRank(b)),
			first(!PodReady(a), !PodReady(b)),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			cmp.Compare(bucket(readySince(a), now), bucket(readySince(b), now)),
			cmp.Compare(mostRestarts(b), mostRestarts(a)),
			cmp.Compare(bucket(a.CreationTimestamp.Time, now), bucket(b.CreationTimestamp.Time, now)),
			cmp.Compare(a.UID, b.UID),
		)
	})
}

// first orders what is true before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func phaseRank(p *corev1.Pod) int {
	switch p.Status.Phase {
	case corev1.PodPending, "":
		return 0
	case corev1.PodUnknown:
		return 1
	}
	return 2
}

// bucket is the logarithm of how long ago that was, so that pods of about the
// same age are equals and chance decides: else the youngest of them always
// would go, which concentrates what is left where it is oldest.
func bucket(t, now time.Time) int {
	if t.IsZero() || !now.After(t) {
		return -1
	}
	return int(math.Log2(float64(now.Sub(t))))
}
