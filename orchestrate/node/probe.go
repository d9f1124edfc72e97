package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/minirun/minirun/orchestrate/podlife"
	"github.com/minirun/minirun/runtime"
)

// maxProbeOutput is how much of an answer is read.
const maxProbeOutput = 10 << 10

// probeOnce probes a container once. The text is a warning. It takes no longer than
// the probe's timeout, whatever the other side does.
func (w *worker) probeOnce(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, c *runtime.Container, p *corev1.Probe) (string, error) {
	timeout := time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case p.Exec != nil:
		code, out, err := w.runIn(ctx, c, p.Exec.Command)
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return "", fmt.Errorf("command timed out: %q timed out after %s", strings.Join(p.Exec.Command, " "), timeout)
		case err != nil:
			return "", fmt.Errorf("rpc error: %w", err)
		case code != 0:
			return "", errors.New(out)
		}
		return "", nil
	case p.HTTPGet != nil:
		return w.httpGet(ctx, spec, p.HTTPGet)
	case p.TCPSocket != nil:
		addr, err := w.address(spec, p.TCPSocket.Host, p.TCPSocket.Port)
		if err != nil {
			return "", err
		}
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return "", err
		}
		return "", conn.Close()
	case p.GRPC != nil:
		service := ""
		if p.GRPC.Service != nil {
			service = *p.GRPC.Service
		}
		addr, err := w.address(spec, "", intstr.FromInt32(p.GRPC.Port))
		if err != nil {
			return "", err
		}
		return "", grpcHealth(ctx, addr, service)
	}
	return "", errors.New("the probe has no kind that is known")
}

// address is where a probe or a hook connects to.
func (w *worker) address(spec *corev1.Container, host string, port intstr.IntOrString) (string, error) {
	if host == "" {
		w.mu.Lock()
		host = first(w.ips)
		w.mu.Unlock()
	}
	number := int(port.IntVal)
	if port.Type == intstr.String {
		number = 0
		for _, p := range spec.Ports {
			if p.Name == port.StrVal {
				number = int(p.ContainerPort)
			}
		}
		if number == 0 {
			n, err := strconv.Atoi(port.StrVal)
			if err != nil {
				return "", fmt.Errorf("couldn't find port: %q in container %q", port.StrVal, spec.Name)
			}
			number = n
		}
	}
	if number <= 0 || number > 65535 {
		return "", fmt.Errorf("invalid port number: %d", number)
	}
	return net.JoinHostPort(host, strconv.Itoa(number)), nil
}

// prober makes requests like a kubelet's: each on a connection of its own, without
// checking certificates, to the pod and nobody else.
var errOtherHost = errors.New("redirect to another host")

func newClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as a kubelet: the certificate is for other names
			DisableKeepAlives: true, DisableCompression: true, Proxy: nil,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if req.URL.Hostname() != via[0].URL.Hostname() {
				return errOtherHost
			}
			if len(via) >= 10 {
				return errors.New("stopped after 10 redirects")
			}
			return nil
		},
	}
}

// httpGet asks the pod.
func (w *worker) httpGet(ctx context.Context, spec *corev1.Container, g *corev1.HTTPGetAction) (warning string, err error) {
	addr, err := w.address(spec, g.Host, g.Port)
	if err != nil {
		return "", err
	}
	scheme := strings.ToLower(string(g.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	u, err := url.Parse(g.Path)
	if err != nil {
		u = &url.URL{Path: g.Path}
	}
	u.Scheme, u.Host = scheme, addr
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	for _, h := range g.HTTPHeaders {
		if strings.EqualFold(h.Name, "Host") {
			req.Host = h.Value
		} else {
			req.Header.Add(h.Name, h.Value)
		}
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", "kube-probe/1.34")
	}
	if _, ok := req.Header["Accept"]; !ok {
		req.Header.Set("Accept", "*/*")
	} else if req.Header.Get("Accept") == "" {
		req.Header.Del("Accept")
	}
	client := newClient()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if errors.Is(err, errOtherHost) {
		return "Probe terminated redirects, Response body: ", nil
	}
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if _, err := io.CopyN(io.Discard, resp.Body, maxProbeOutput); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	// With TLS, a server can take the end of our patience for the end of the request, and
	// complete its answer before the connection is closed.
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if !podlife.HTTPOK(resp.StatusCode) {
		return "", fmt.Errorf("HTTP probe failed with statuscode: %d", resp.StatusCode)
	}
	return "", nil
}

// grpcHealth asks a server for its health: one call of grpc.health.v1.Health/Check,
// which is a request of HTTP/2 with a message of one field.
func grpcHealth(ctx context.Context, addr, service string) error {
	message := []byte{}
	if service != "" {
		message = append([]byte{0x0a}, binary.AppendUvarint(nil, uint64(len(service)))...)
		message = append(message, service...)
	}
	body := append([]byte{0, 0, 0, 0, byte(len(message))}, message...)
	binary.BigEndian.PutUint32(body[1:5], uint32(len(message)))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/grpc.health.v1.Health/Check", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	req.Header.Set("User-Agent", "kube-probe/1.34")
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("timeout: failed to connect service %q: %w", addr, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxProbeOutput))
	if err != nil {
		return err
	}
	status := resp.Trailer.Get("Grpc-Status")
	if status == "" {
		status = resp.Header.Get("Grpc-Status")
	}
	switch {
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("health rpc failed: HTTP status %d", resp.StatusCode)
	case status == "12":
		return fmt.Errorf("this server does not implement the grpc health protocol (grpc.health.v1.Health)")
	case status != "0":
		return fmt.Errorf("health rpc failed: status %s: %s", status, resp.Trailer.Get("Grpc-Message"))
	}
	// SERVING is 1 in field 1, and a status of 0 is not sent.
	if len(raw) == 7 && raw[0] == 0 && raw[5] == 0x08 && raw[6] == 1 {
		return nil
	}
	return errors.New("service unhealthy (responded with \"NOT_SERVING\")")
}

// hook runs a hook of a container.
func (w *worker) hook(ctx context.Context, h *corev1.LifecycleHandler, c *runtime.Container) error {
	spec := &corev1.Container{}
	if pod, err := w.podOf(); err == nil && pod != nil {
		if _, name, _, ok := parseID(c.ID); ok {
			if s := findContainer(&pod.Spec, name); s != nil {
				spec = s
			}
		}
	}
	switch {
	case h.Exec != nil:
		code, out, err := w.runIn(ctx, c, h.Exec.Command)
		if err == nil && code != 0 {
			err = fmt.Errorf("command '%s' exited with %d: %s", strings.Join(h.Exec.Command, " "), code, out)
		}
		return err
	case h.HTTPGet != nil:
		_, err := w.httpGet(ctx, spec, h.HTTPGet)
		return err
	case h.TCPSocket != nil:
		addr, err := w.address(spec, h.TCPSocket.Host, h.TCPSocket.Port)
		if err != nil {
			return err
		}
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	case h.Sleep != nil:
		if !pause(ctx, time.Duration(h.Sleep.Seconds)*time.Second) {
			return ctx.Err()
		}
	}
	return nil
}

// preStop runs the hook before the end of a container.
func (w *worker) preStop(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, c *runtime.Container) {
	if spec.Lifecycle == nil || spec.Lifecycle.PreStop == nil {
		return
	}
	if err := w.hook(ctx, spec.Lifecycle.PreStop, c); err != nil && w.ctx.Err() == nil {
		w.warning(pod, spec, "FailedPreStopHook", "PreStopHook failed: %v", err)
	}
}
