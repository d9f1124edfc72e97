package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// web is the Deployment of the demo, with a Service in front of it.
func web(version, command string, replicas int) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  annotations: {minirun.dev/auto-rollback: "true"}
spec:
  replicas: %d
  progressDeadlineSeconds: 20
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: web
        image: minirun/demo
        imagePullPolicy: Never
        command: [%s]
        env: [{name: VERSION, value: %q}]
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
`, replicas, command, version)
}

// demo updates ten pods under load, to a version that works and to one that does not.
func (h *host) demo(rate, seconds int) error {
	if err := h.apply(web("1", "httpd", 10)); err != nil {
		return err
	}
	if err := h.show("kube", "rollout", "status", "deployment/web"); err != nil {
		return err
	}
	address, err := h.command("kube", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		return err
	}
	target := net.JoinHostPort(strings.TrimSpace(address), "80")
	fmt.Printf("\n%d new connections a second to %s; after 5 s an update to version 2\n", rate, target)
	one := h.under(target, rate, seconds, func() error {
		if err := h.apply(web("2", "httpd", 10)); err != nil {
			return err
		}
		return h.show("kube", "rollout", "status", "deployment/web")
	})
	one.print()
	fmt.Printf("\nthe same, with an update to a version that ends at once\n")
	two := h.under(target, rate, seconds, func() error {
		if err := h.apply(web("3", "exit, \"1\"", 10)); err != nil {
			return err
		}
		return h.rolledBack()
	})
	two.print()
	err = errors.Join(
		h.show("kube", "get", "deployment,pods"),
		h.show("kube", "rollout", "history", "deployment/web"),
		one.verdict("2"), two.verdict("2"),
	)
	_, gone := h.command("kube", "delete", "deployment/web", "service/web")
	_, all := h.command("kube", "wait", "--for=delete", "pods", "-l", "app=web", "--timeout=60s")
	return errors.Join(err, gone, all)
}

// rolledBack waits until the deployment is what it was, and says how it got there.
func (h *host) rolledBack() error {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		out, err := h.command("kube", "get", "deployment", "web", "-o",
			`jsonpath={.status.conditions[?(@.type=="RolledBack")].message}|{.spec.template.spec.containers[0].env[0].value}|{.status.updatedReplicas}|{.status.availableReplicas}|{.status.replicas}`)
		if err != nil {
			return err
		}
		f := strings.Split(strings.TrimSpace(out), "|")
		if len(f) == 5 && f[0] != "" && f[1] == "2" && f[2] == "10" && f[3] == "10" && f[4] == "10" {
			fmt.Println("rolled back:", f[0])
			return nil
		}
	}
	out, _ := h.command("kube", "describe", "deployment", "web")
	return fmt.Errorf("there was no rollback:\n%s", out)
}

// load is what came of many connections.
type load struct {
	mu       sync.Mutex
	sent     int
	versions map[string]int
	hosts    map[string]int
	failed   map[string]int
	slowest  time.Duration
	last     string // version of the last answer
	during   error  // of what was done meanwhile
}

// under makes connections for a time, and does something after 5 s of it.
func (h *host) under(target string, rate, seconds int, f func() error) *load {
	l := &load{versions: map[string]int{}, hosts: map[string]int{}, failed: map[string]int{}}
	var wg sync.WaitGroup
	done := make(chan struct{})
	time.AfterFunc(5*time.Second, func() {
		defer close(done)
		l.during = f()
	})
	begin := time.Now()
	length := time.Duration(seconds) * time.Second
	running := true
	for i := 0; time.Since(begin) < length || running; i++ {
		select {
		case <-done:
			running = false
		default:
		}
		if wait := time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(rate))); wait > 0 {
			time.Sleep(wait)
		}
		wg.Go(func() { l.one(target) })
	}
	wg.Wait()
	return l
}

func (l *load) one(target string) {
	began := time.Now()
	version, host, err := ask(target)
	took := time.Since(began)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	l.slowest = max(l.slowest, took)
	if err != nil {
		l.failed[err.Error()]++
		return
	}
	l.versions[version]++
	l.hosts[host]++
	l.last = version
}

// ask makes one connection, and one request on it.
func ask(target string) (version, host string, err error) {
	c, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", "", err
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", "", err
	}
	b, err := io.ReadAll(c)
	if err != nil {
		return "", "", err
	}
	_, body, ok := strings.Cut(string(b), "\r\n\r\nhost: ")
	host, version, ok2 := strings.Cut(strings.TrimSpace(body), "\nversion: ")
	if !ok || !ok2 {
		return "", "", fmt.Errorf("an answer of %d bytes", len(b))
	}
	return version, host, nil
}

func (l *load) print() {
	fmt.Printf("%d connections, %d failed, slowest %s, answered by %d pods:", l.sent, l.errors(), l.slowest.Round(time.Millisecond), len(l.hosts))
	for _, v := range slices.Sorted(maps.Keys(l.versions)) {
		fmt.Printf(" version %s %d times", v, l.versions[v])
	}
	fmt.Println()
	for e, n := range l.failed {
		fmt.Printf("  %d times: %s\n", n, e)
	}
}

func (l *load) errors() (n int) {
	for _, k := range l.failed {
		n += k
	}
	return n
}

// verdict wants no error, and the last answers to be of a version.
func (l *load) verdict(version string) error {
	err := l.during
	if n := l.errors(); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d of %d connections failed", n, l.sent))
	}
	if l.last != version {
		err = errors.Join(err, fmt.Errorf("the last answer is of version %q, not %q", l.last, version))
	}
	return err
}
