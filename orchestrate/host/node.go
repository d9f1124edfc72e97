package host

import (
	"maps"
	goruntime "runtime"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// When a node is under pressure: what a kubelet has by default.
const (
	leastMemory = 100 << 20
	leastDisk   = 10 // percent of the bytes
	leastInodes = 5  // percent
	leastPIDs   = 10 // percent

	// Pressure is over when none was seen for that long: else pods that end
	// because of it come back at once, and bring it back.
	relief = 5 * time.Minute
	// heartbeat is how often a node that does not change is written.
	heartbeat = 5 * time.Minute
	// notice is how often pressure that goes on is.
	notice = time.Minute
)

// Node is the object as it should be now. Nothing of old is changed.
func Node(old *corev1.Node, f Facts, now time.Time) *corev1.Node {
	n := old.DeepCopy()
	t := metav1.NewTime(now).Rfc3339Copy()
	n.Labels = maps.Clone(old.Labels)
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	for k, v := range map[string]string{
		corev1.LabelHostname: f.Name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: goruntime.GOARCH, "node-role.kubernetes.io/control-plane": "",
	} {
		n.Labels[k] = v
	}
	st := &n.Status
	st.Capacity = corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(f.CPUs, resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(f.Memory, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(f.Disk, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(f.MaxPods, resource.DecimalSI),
	}
	st.Allocatable = st.Capacity.DeepCopy()
	st.Allocatable[corev1.ResourceMemory] = *resource.NewQuantity(max(f.Memory-leastMemory, 0), resource.BinarySI)
	st.Allocatable[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(f.Disk/100*(100-leastDisk), resource.BinarySI)
	// The same values in other words are no change.
	if equality.Semantic.DeepEqual(st.Capacity, old.Status.Capacity) && equality.Semantic.DeepEqual(st.Allocatable, old.Status.Allocatable) {
		st.Capacity, st.Allocatable = old.Status.Capacity, old.Status.Allocatable
	}
	st.Addresses = nil
	for _, a := range f.Addresses {
		st.Addresses = append(st.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	st.Addresses = append(st.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: f.Name})
	st.NodeInfo = corev1.NodeSystemInfo{
		MachineID: f.MachineID, SystemUUID: f.SystemUUID, BootID: f.BootID, KernelVersion: f.Kernel, OSImage: f.OS,
		ContainerRuntimeVersion: "minirun://" + f.Version, KubeletVersion: f.Version, OperatingSystem: "linux", Architecture: goruntime.GOARCH,
	}
	st.Conditions = []corev1.NodeCondition{
		pressure(old, t, corev1.NodeMemoryPressure, f.Available < leastMemory, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
		pressure(old, t, corev1.NodeDiskPressure, f.DiskFree < f.Disk/100*leastDisk || f.InodesFree < f.Inodes*leastInodes/100, "KubeletHasDiskPressure", "kubelet has disk pressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
		pressure(old, t, corev1.NodePIDPressure, f.MaxPIDs-f.PIDs < f.MaxPIDs*leastPIDs/100, "KubeletHasInsufficientPID", "kubelet has insufficient PID available", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
		condition(old, t, corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "minirund is posting ready status"}, heartbeat),
	}
	taint(n, corev1.TaintNodeMemoryPressure, st.Conditions[0].Status == corev1.ConditionTrue)
	taint(n, corev1.TaintNodeDiskPressure, st.Conditions[1].Status == corev1.ConditionTrue)
	taint(n, corev1.TaintNodePIDPressure, st.Conditions[2].Status == corev1.ConditionTrue)
	taint(n, corev1.TaintNodeUnschedulable, n.Spec.Unschedulable)
	return n
}

func find(n *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == t {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

// pressure is a condition that is quick to come and slow to go. While it is seen,
// its heartbeat says when last.
func pressure(old *corev1.Node, now metav1.Time, t corev1.NodeConditionType, seen bool, badReason, bad, goodReason, good string) corev1.NodeCondition {
	had := find(old, t)
	if had != nil && had.Status == corev1.ConditionTrue && !seen && now.Sub(had.LastHeartbeatTime.Time) < relief && !now.Before(&had.LastHeartbeatTime) {
		return *had
	}
	if seen {
		return condition(old, now, corev1.NodeCondition{Type: t, Status: corev1.ConditionTrue, Reason: badReason, Message: bad}, notice)
	}
	return condition(old, now, corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, Reason: goodReason, Message: good}, heartbeat)
}

// condition keeps the times of one that does not change, for a while.
func condition(old *corev1.Node, now metav1.Time, c corev1.NodeCondition, beat time.Duration) corev1.NodeCondition {
	c.LastHeartbeatTime, c.LastTransitionTime = now, now
	had := find(old, c.Type)
	if had == nil || had.Status != c.Status {
		return c
	}
	c.LastTransitionTime = had.LastTransitionTime
	// A clock that was set back must not stop it.
	if d := now.Sub(had.LastHeartbeatTime.Time); d >= 0 && d < beat {
		c.LastHeartbeatTime = had.LastHeartbeatTime
	}
	return c
}

// taint adds or removes a taint that says what is seen here.
func taint(n *corev1.Node, key string, on bool) {
	is := func(t corev1.Taint) bool { return t.Key == key && t.Effect == corev1.TaintEffectNoSchedule }
	switch has := slices.ContainsFunc(n.Spec.Taints, is); {
	case on && !has:
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
	case !on && has:
		if n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, is); len(n.Spec.Taints) == 0 {
			n.Spec.Taints = nil
		}
	}
}
