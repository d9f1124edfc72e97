package node

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// Services are what leads connections to pods. The node tells it what becomes of
// a pod, and waits: when a method returns, the kernel has it.
type Services interface {
	// Ready has new connections go to the pod, before its status says Ready.
	Ready(pod *corev1.Pod, ips []netip.Addr) error
	// Remove has no new connection go to it, before its preStop hooks and signals.
	Remove(pod *corev1.Pod) error
	// Connections counts the open ones to it.
	Connections(pod *corev1.Pod) (int, error)
	// Forget removes what the kernel still knows of its connections.
	Forget(pod *corev1.Pod) error
}

// NoServices is a Services of a node without any.
type NoServices struct{}

// Ready does nothing.
func (NoServices) Ready(*corev1.Pod, []netip.Addr) error { return nil }

// Remove does nothing.
func (NoServices) Remove(*corev1.Pod) error { return nil }

// Connections knows of none.
func (NoServices) Connections(*corev1.Pod) (int, error) { return 0, nil }

// Forget does nothing.
func (NoServices) Forget(*corev1.Pod) error { return nil }
