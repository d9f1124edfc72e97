package main

import (
	"os"

	"github.com/minirun/minirun/runtime"
)

// notifier is for the service manager that has started us, if one has and wants
// to know when the service is ready.
func (a *app) notifier() *runtime.Notifier {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	n, err := runtime.NewNotifier(socket)
	if err != nil {
		a.log.warn(err.Error())
		return nil
	}
	return n
}

// awaitReady stays until the container is ready. That it could not be told is no
// reason to fail: the container runs.
func (a *app) awaitReady(n *runtime.Notifier, c *runtime.Container) {
	if err := n.Await(c); err != nil {
		a.log.warn(err.Error())
	}
}

// readiness passes on that a container in the foreground is ready.
type readiness struct {
	app *app
	*runtime.Notifier
	c *runtime.Container
}

func (r *readiness) pass() {
	if err := r.Pass(r.c); err != nil {
		r.app.log.warn(err.Error())
	}
}
