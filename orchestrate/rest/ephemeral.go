package rest

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/store"
)

// isEphemeral tells whether a request is about the subresource that adds containers
// to a pod that runs, which kubectl debug does.
func isEphemeral(q *request) bool {
	return q.sub == "ephemeralcontainers" && q.kind.Name() == "pods" && q.name != ""
}

// withEphemeral is the pod that such a request makes of old: nothing else of it
// counts.
func withEphemeral(q *request, obj, old store.Object) (store.Object, error) {
	was := old.(*corev1.Pod)
	n := api.WithEphemeral(was, obj.(*corev1.Pod))
	api.Default(n)
	return n, api.ValidateEphemeral(q.kind, n, was)
}
