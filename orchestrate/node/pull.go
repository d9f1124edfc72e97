package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/imagestore/reference"
	"github.com/minirun/minirun/imagestore/unpacked"
)

// Pull is an image to be fetched.
type Pull struct {
	Image string
	// Unpack: it is in the store already, and only has to be unpacked.
	Unpack bool
	// Auth, if not empty, is a configuration of docker with credentials.
	Auth []byte
}

// pullBySibling has minirund fetch images, in a process of its own: what comes
// from a registry is foreign, and decompressing takes memory.
func pullBySibling(images string) func(context.Context, Pull) error {
	return func(ctx context.Context, p Pull) error {
		exe, err := os.Executable()
		if err != nil {
			return err
		}
		if filepath.Base(exe) != "minirund" {
			exe = filepath.Join(filepath.Dir(exe), "minirund")
		}
		return pullBy(exe, images)(ctx, p)
	}
}

// pullBy has a minirund fetch images.
func pullBy(exe, images string) func(context.Context, Pull) error {
	return func(ctx context.Context, p Pull) error {
		args := []string{"--store", images, "image", "pull", "--quiet"}
		if p.Unpack {
			args = []string{"--store", images, "image", "unpack"}
		}
		if len(p.Auth) > 0 {
			dir, err := os.MkdirTemp("", "minirun-pull")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			file := filepath.Join(dir, "config.json")
			if err := os.WriteFile(file, p.Auth, 0o600); err != nil {
				return err
			}
			args = append(args, "--authfile", file)
		}
		cmd := exec.CommandContext(ctx, exe, append(args, "--", p.Image)...)
		var out bytes.Buffer
		cmd.Stderr = &out
		err := cmd.Start()
		if err == nil {
			// What is foreign may be large: rather this process than the host's others.
			setOOMScore(cmd.Process.Pid, pullOOMScore)
			err = cmd.Wait()
		}
		if err != nil {
			text := strings.TrimSpace(out.String())
			if text == "" {
				text = err.Error()
			}
			// Its hints are lines of their own; events and statuses are one.
			return errors.New(strings.ReplaceAll(strings.TrimPrefix(text, "minirun: "), "\nhint: ", "; "))
		}
		return nil
	}
}

// pullOOMScore is the oom_score_adj of what pulls images.
const pullOOMScore = 500

// Waits between attempts to pull, as a kubelet has them.
const (
	firstPull   = 10 * time.Second
	lastPull    = 300 * time.Second
	pullTimeout = 30 * time.Minute
)

// pulling is what is known of the image of a container's next attempt.
type pulling struct {
	attempt int32 // the one that the rest is about
	ref     string
	state   imageState
	image   *unpacked.Image
	wait    time.Duration // back-off of the next failure
}

// findImage looks whether an image can be started from.
func (n *Node) findImage(ref string) (image *unpacked.Image, packed bool, err error) {
	image, sure, err := n.images.Find(ref)
	var not *container.NotUnpackedError
	switch {
	case errors.As(err, &not):
		return nil, true, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, false, nil
	case err == nil && !sure:
		return image, true, nil
	}
	return image, false, err
}

// ensureImage sees to it that the image of a container is there. What takes time is
// done in a goroutine.
func (w *worker) ensureImage(ctx context.Context, pod *corev1.Pod, b *box) {
	c := b.Spec
	l := w.live(c.Name)
	w.mu.Lock()
	l.pull.ref = c.Image
	w.mu.Unlock()
	if _, err := reference.Parse(c.Image); err != nil && !reference.LooksLikeID(c.Image) {
		w.wait(b, lastPull, "InvalidImageName", fmt.Sprintf("Failed to apply default image tag %q: %v", c.Image, err))
		w.warning(pod, c, "InspectFailed", "Failed to apply default image tag %q: %v", c.Image, err)
		return
	}
	image, packed, err := w.n.findImage(c.Image)
	if err != nil {
		w.wait(b, w.n.o.PullBackoff, "ImageInspectError", err.Error())
		w.warning(pod, c, "InspectFailed", "Failed to inspect image %q: %v", c.Image, err)
		return
	}
	policy := c.ImagePullPolicy
	there := image != nil || packed
	if policy == corev1.PullNever && !there {
		w.wait(b, w.n.o.PullBackoff, "ErrImageNeverPull", fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image))
		w.warning(pod, c, "ErrImageNeverPull", "Container image %q is not present with pull policy of Never", c.Image)
		return
	}
	if image != nil && !packed && policy != corev1.PullAlways {
		w.mu.Lock()
		l.pull.attempt, l.pull.ref, l.pull.state, l.pull.image, l.waiting = b.Next, c.Image, imageHere, image, nil
		w.mu.Unlock()
		w.normal(pod, c, "Pulled", "Container image %q already present on machine", c.Image)
		return
	}
	p := Pull{Image: c.Image, Unpack: there && policy != corev1.PullAlways}
	if !p.Unpack {
		if p.Auth, err = w.n.credentials(pod); err != nil {
			w.warning(pod, c, "FailedToRetrieveImagePullSecret", "%v", err)
		}
		w.normal(pod, c, "Pulling", "Pulling image %q", c.Image)
	}
	w.mu.Lock()
	l.pull.attempt, l.pull.ref, l.pull.state = b.Next, c.Image, imagePulling
	if l.waiting == nil || l.waiting.Reason == "ImagePullBackOff" {
		l.waiting = nil
	}
	w.mu.Unlock()
	next := b.Next
	w.spawn(func() {
		began := time.Now()
		err := w.n.fetchOnce(ctx, p)
		var image *unpacked.Image
		if err == nil {
			if image, _, err = w.n.findImage(c.Image); err == nil && image == nil {
				err = fmt.Errorf("image %q is not there after it was pulled", c.Image)
			}
		}
		if ctx.Err() != nil && w.ctx.Err() != nil {
			return
		}
		took := time.Since(began).Round(time.Millisecond)
		w.mu.Lock()
		defer w.mu.Unlock()
		if l.pull.ref != c.Image {
			return // another one is wanted now
		}
		l.pull.attempt = next
		if err == nil {
			l.pull.state, l.pull.image, l.pull.wait, l.waiting = imageHere, image, 0, nil
			if p.Unpack {
				w.normal(pod, c, "Pulled", "Container image %q already present on machine", c.Image)
			} else {
				w.normal(pod, c, "Pulled", "Successfully pulled image %q in %s (%s including waiting)", c.Image, took, took)
			}
			w.poke()
			return
		}
		l.pull.state = imageUnknown
		l.pull.wait = min(max(2*l.pull.wait, w.n.o.PullBackoff), lastPull)
		l.retry = time.Now().Add(l.pull.wait)
		l.waiting = &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: err.Error()}
		w.warning(pod, c, "Failed", "Failed to pull image %q: %v", c.Image, err)
		w.warning(pod, c, "Failed", "Error: ErrImagePull")
		w.poke()
		// Until the next attempt it is said that nothing is tried.
		w.after(time.Second, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			if l.waiting != nil && l.waiting.Reason == "ErrImagePull" && l.pull.ref == c.Image {
				l.waiting = &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: fmt.Sprintf("Back-off pulling image %q: ErrImagePull: %v", c.Image, err)}
				w.normal(pod, c, "BackOff", "Back-off pulling image %q", c.Image)
				w.warning(pod, c, "Failed", "Error: ImagePullBackOff")
				w.poke()
			}
		})
	})
}

// credentials are those of a pod's imagePullSecrets, as one configuration of docker.
func (n *Node) credentials(pod *corev1.Pod) ([]byte, error) {
	auths := map[string]json.RawMessage{}
	var errs []error
	for _, r := range pod.Spec.ImagePullSecrets {
		s, err := get[*corev1.Secret](n, secrets, pod.Namespace, r.Name)
		if err == nil && s == nil {
			err = fmt.Errorf("unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed", r.Name)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		raw := s.Data[corev1.DockerConfigJsonKey]
		var c struct {
			Auths map[string]json.RawMessage `json:"auths"`
		}
		if len(raw) > 0 {
			err = json.Unmarshal(raw, &c)
		} else if raw = s.Data[corev1.DockerConfigKey]; len(raw) > 0 {
			err = json.Unmarshal(raw, &c.Auths)
		} else {
			err = errors.New("it has no credentials of a registry")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("secret %q: %w", r.Name, err))
			continue
		}
		for host, auth := range c.Auths {
			if _, ok := auths[host]; !ok {
				auths[host] = auth
			}
		}
	}
	if len(auths) == 0 {
		return nil, errors.Join(errs...)
	}
	raw, err := json.Marshal(map[string]any{"auths": auths})
	return raw, errors.Join(append(errs, err)...)
}
