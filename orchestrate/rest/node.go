package rest

import (
	"context"
	"io"
	"net"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Node runs the pods of the store. The server asks it for what objects do not
// say: logs, programs within containers, what they use.
//
// A pod, or a container of it, that there is none of is an error with a Status
// (k8s.io/apimachinery/pkg/api/errors makes them), and so is one that cannot do
// now what is asked. Containers are named as the options have it; an empty name
// is the only container of a pod, and an error where there are more.
type Node interface {
	// Logs writes the log of a container to w, and returns when it has, or, with
	// Follow, when the container has ended or ctx is done. Tail, since, previous,
	// timestamps and the limit of bytes are the node's business.
	Logs(ctx context.Context, namespace, pod string, o *LogOptions, w io.Writer) error
	// Exec runs a program in a container and gives its exit code; err is for what
	// did not get that far.
	Exec(ctx context.Context, namespace, pod string, o *corev1.PodExecOptions, s Streams) (exitCode int, err error)
	// Attach connects to the program that a container was started with until that
	// ends, the input does, or ctx is done: then exitCode is 0.
	Attach(ctx context.Context, namespace, pod string, o *corev1.PodAttachOptions, s Streams) (exitCode int, err error)
	// Dial connects with a TCP port of a pod, from inside.
	Dial(ctx context.Context, namespace, pod string, port uint16) (net.Conn, error)
	// PodMetrics is what the running containers of a pod use; an error of
	// io/fs.ErrNotExist where there is nothing to measure yet.
	PodMetrics(namespace, pod string) (PodMetrics, error)
	// NodeMetrics is what the whole machine uses.
	NodeMetrics() (Usage, error)
}

// LogOptions are those of Kubernetes, and which run of the container is meant.
type LogOptions struct {
	corev1.PodLogOptions
	// Run is its number, 0 being the first; below 0 it counts back from the last one.
	// nil is the last one, or the one before with Previous.
	Run *int32
}

// Streams are those of a program. One that is nil was not asked for. With a
// terminal everything comes out of Stdout.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Resize tells the sizes that the client's terminal has; it is closed when no
	// more will come, and nil without a terminal.
	Resize <-chan WindowSize
}

// WindowSize is that of a terminal, in characters.
type WindowSize struct{ Width, Height uint16 }

// Usage is what is used: of the processor over a window of time, in millionths of
// one core, and of memory now, in bytes, without what the kernel can take back.
type Usage struct {
	Time     time.Time
	Window   time.Duration
	MicroCPU int64
	Memory   int64
}

// PodMetrics is what the containers of a pod use.
type PodMetrics struct {
	Time       time.Time
	Window     time.Duration
	Containers []ContainerMetrics
}

// ContainerMetrics is what one container uses.
type ContainerMetrics struct {
	Name     string
	MicroCPU int64
	Memory   int64
}
