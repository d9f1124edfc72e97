// Package resttest has a node that only pretends, for tests of the API and of its
// clients.
package resttest

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/orchestrate/rest"
)

// Node pretends. A program in a container is one of these words:
//
//	cat        what comes in goes out
//	echo ...   prints its arguments
//	exit CODE  prints "out" and "err" and ends with the code
//	size       waits for a size of the terminal and prints it
//	fail       cannot be started
//	wait       waits until the client is gone
type Node struct {
	// Gone gets a word when a client went away.
	Gone chan string
}

// At is when everything is measured.
var At = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Logs prints what was asked for, and, with Follow, waits.
func (n *Node) Logs(ctx context.Context, namespace, pod string, o *rest.LogOptions, w io.Writer) error {
	if o.Previous {
		return fmt.Errorf("previous terminated container %q in pod %q not found", o.Container, pod)
	}
	lines := []string{"one", "two", "three"}
	if o.TailLines != nil {
		lines = lines[max(0, len(lines)-int(*o.TailLines)):]
	}
	for _, l := range lines {
		if o.Timestamps {
			l = At.Format(time.RFC3339) + " " + l
		}
		if _, err := fmt.Fprintf(w, "%s/%s %s\n", pod, o.Container, l); err != nil {
			return err
		}
	}
	if o.Follow && !strings.HasPrefix(pod, "done") {
		<-ctx.Done()
		n.gone("logs")
	}
	return nil
}

func (n *Node) gone(what string) {
	if n.Gone != nil {
		n.Gone <- what
	}
}

// Exec runs one of the words.
func (n *Node) Exec(ctx context.Context, _, _ string, o *corev1.PodExecOptions, s rest.Streams) (int, error) {
	switch o.Command[0] {
	case "cat":
		_, err := io.Copy(s.Stdout, s.Stdin)
		return 0, err
	case "echo":
		fmt.Fprintln(s.Stdout, strings.Join(o.Command[1:], " "))
		return 0, nil
	case "exit":
		code := 0
		fmt.Sscan(o.Command[1], &code)
		io.WriteString(s.Stdout, "out\n")
		if s.Stderr != nil {
			io.WriteString(s.Stderr, "err\n")
		}
		return code, nil
	case "size":
		z := <-s.Resize
		fmt.Fprintf(s.Stdout, "%dx%d\n", z.Width, z.Height)
		return 0, nil
	case "wait":
		fmt.Fprintln(s.Stdout, "waiting")
		<-ctx.Done()
		n.gone("exec")
		return 0, nil
	}
	return 0, fmt.Errorf("exec: %q: executable file not found in $PATH", o.Command[0])
}

// Attach is a cat that greets.
func (n *Node) Attach(_ context.Context, _, pod string, o *corev1.PodAttachOptions, s rest.Streams) (int, error) {
	fmt.Fprintf(s.Stdout, "attached to %s/%s\n", pod, o.Container)
	if s.Stdin != nil {
		if _, err := io.Copy(s.Stdout, s.Stdin); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// LastWords are what port 10 says.
var LastWords = strings.Repeat("0123456789abcdef", 1<<16)

// Dial connects with a pod whose port 7 gives back what comes in, whose port 9 says
// "bye" and closes, whose port 10 reads nothing and says LastWords, whose port 11
// does nothing at all, and which refuses all others.
func (n *Node) Dial(_ context.Context, _, pod string, port uint16) (net.Conn, error) {
	if port != 7 && (port < 9 || port > 11) {
		return nil, fmt.Errorf("connect to port %d: connection refused", port)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var ends [2]net.Conn
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), pod)
		defer f.Close()
		if ends[i], err = net.FileConn(f); err != nil {
			return nil, err
		}
	}
	go func() {
		defer ends[1].Close()
		switch port {
		case 9:
			io.WriteString(ends[1], "bye")
			return
		case 10:
			ends[1].(*net.UnixConn).CloseRead()
			io.WriteString(ends[1], LastWords)
			return
		case 11:
			raw, _ := ends[1].(*net.UnixConn).SyscallConn()
			raw.Read(func(fd uintptr) bool { // until the other end is closed
				poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
				for {
					if n, err := unix.Poll(poll, -1); n == 1 || err != unix.EINTR {
						return true
					}
				}
			})
		default:
			io.Copy(ends[1], ends[1])
		}
		n.gone("connection")
	}()
	return ends[0], nil
}

// PodMetrics are a quarter of a core and 20 MiB in one container.
func (n *Node) PodMetrics(_, pod string) (rest.PodMetrics, error) {
	if strings.HasPrefix(pod, "new") {
		return rest.PodMetrics{}, fs.ErrNotExist
	}
	return rest.PodMetrics{Time: At, Window: 10 * time.Second, Containers: []rest.ContainerMetrics{{Name: "c", MicroCPU: 250_000, Memory: 20 << 20}}}, nil
}

// NodeMetrics are one core and a half, and 1 GiB.
func (n *Node) NodeMetrics() (rest.Usage, error) {
	return rest.Usage{Time: At, Window: 10 * time.Second, MicroCPU: 1_500_000, Memory: 1 << 30}, nil
}
