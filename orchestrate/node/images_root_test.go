package node

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/minirun/minirun/imagestore/registrytest"
	"github.com/minirun/minirun/internal/testenv"
)

// waits tells whether a container waits for that reason.
func waits(reason string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		w := state(p, "c").State.Waiting
		return w != nil && w.Reason == reason
	}
}

// Images come from a registry, by policy and with credentials; who waits for one says
// why.
func TestRootPodImages(t *testing.T) {
	b := newBench(t)
	b.stop(syscall.SIGTERM)
	b.c.Puller, b.c.PullBackoff = testenv.Supervisor(t), 2*time.Second
	b.run("", 0)
	var open, login *registrytest.Server
	b.inNet(func() error {
		open = registrytest.New(t, registrytest.Options{})
		login = registrytest.New(t, registrytest.Options{User: "alice", Password: "wonder land"})
		return nil
	})
	// Another store makes the images: this one has to fetch all of them.
	seed := filepath.Join(b.c.Dir, "seed")
	rootfs := testenv.Rootfs(t)
	auth := filepath.Join(b.c.Dir, "auth.json")
	config := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, login.Host(), base64.StdEncoding.EncodeToString([]byte("alice:wonder land")))
	write(t, auth, config)
	name := open.Host() + "/test/app"
	for tag, say := range map[string]string{"v1": "one", "v2": "two"} {
		b.host(testenv.Binary(t), "--store", seed, "image", "import", "--quiet", "--change", `CMD ["sh","-c","echo `+say+`; exec sleep 1000"]`, rootfs, "seed:"+tag)
		b.host(testenv.Binary(t), "--store", seed, "image", "push", "--quiet", "seed:"+tag, name+":"+tag)
	}
	b.host(testenv.Binary(t), "--store", seed, "image", "push", "--quiet", "--authfile", auth, "seed:v1", login.Host()+"/private/app:v1")
	open.Reset()
	pod := func(pod, image, policy, more string) {
		t.Helper()
		b.runPod(pod, more+`
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "`+image+`", imagePullPolicy: `+policy+`}]
`)
	}
	says := func(pod, want string) {
		t.Helper()
		b.until(pod, "it runs", ready)
		b.eventually(pod+" says "+want, func() bool { return b.logs(pod, "c", "") == want+"\n" })
	}

	// The registry is not there, and then it is.
	const later = "127.0.0.1:5000" // free: the network namespace is the test's own
	pod("patient", later+"/app:v1", "IfNotPresent", "")
	b.until("patient", "it says that the pull has failed", waits("ErrImagePull"))
	p := b.until("patient", "it says that it waits", waits("ImagePullBackOff"))
	if m := state(p, "c").State.Waiting.Message; p.Status.Phase != corev1.PodPending || !strings.Contains(m, "Back-off pulling image") || !strings.Contains(m, "connection refused") {
		t.Errorf("phase %s, %q", p.Status.Phase, m)
	}
	pod("never", name+":v2", "Never", "")
	pod("wrong", "Not/A:Name:at:all", "IfNotPresent", "")
	b.until("never", "it says why it waits", waits("ErrImageNeverPull"))
	b.until("wrong", "it says why it waits", waits("InvalidImageName"))
	b.eventually("people know", func() bool {
		text := b.reasons("patient")
		return strings.Contains(text, "Failed: Error: ErrImagePull") && strings.Contains(text, "BackOff: Back-off pulling image") && strings.Contains(text, "Failed: Error: ImagePullBackOff") &&
			strings.Contains(b.reasons("never"), "ErrImageNeverPull: Container image") && strings.Contains(b.reasons("wrong"), "InspectFailed: Failed to apply default image tag")
	})
	b.inNet(func() error { registrytest.New(t, registrytest.Options{Addr: later}); return nil })
	b.host(testenv.Binary(t), "--store", seed, "image", "push", "--quiet", "seed:v1", later+"/app:v1")
	says("patient", "one")

	// Two that want the same at the same time: it is fetched once. One of them goes
	// meanwhile.
	open.Reset()
	gate := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(goOn)
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		open.Fail(registrytest.Fault{Method: method, Path: "/manifests/", Do: func(*http.Request) { <-gate }})
	}
	for _, name2 := range []string{"twin1", "twin2", "twin3"} {
		pod(name2, name+":v2", "IfNotPresent", "")
	}
	for _, name2 := range []string{"twin1", "twin2", "twin3"} {
		b.eventually(name2+" waits for its image", func() bool { return strings.Contains(b.reasons(name2), "Pulling: ") })
	}
	b.delete("twin1", 0)
	b.gone("twin1")
	goOn()
	says("twin2", "two")
	says("twin3", "two")
	if heads, gets := open.Count(http.MethodHead, "/manifests/"), open.Count(http.MethodGet, "/manifests/"); heads > 1 || gets != 1 {
		t.Errorf("the image was looked up %d times, and fetched %d times", heads, gets)
	}
	// What is there now is enough for who never pulls.
	says("never", "two")

	// The tag leads elsewhere: who always pulls gets that, others what is there.
	mediaType, manifest, ok := open.Manifest("test/app", "v1")
	if !ok {
		t.Fatal("no manifest")
	}
	open.AddManifest("test/app", mediaType, manifest, "v2")
	open.Reset()
	pod("present", name+":v2", "IfNotPresent", "")
	says("present", "two")
	if n := len(open.Requests()); n != 0 {
		t.Errorf("for an image that is present the registry was asked %d times", n)
	}
	pod("always", name+":v2", "Always", "")
	says("always", "one")

	// A registry that wants to know who asks.
	private := login.Host() + "/private/app:v1"
	b.apply("secrets", "{apiVersion: v1, kind: Secret, metadata: {name: login}, type: kubernetes.io/dockerconfigjson, data: {.dockerconfigjson: "+base64.StdEncoding.EncodeToString([]byte(config))+"}}")
	pod("stranger", private, "Always", "  imagePullSecrets: [{name: missing}]")
	p = b.until("stranger", "it is refused", func(p *corev1.Pod) bool { return waits("ErrImagePull")(p) || waits("ImagePullBackOff")(p) })
	if m := state(p, "c").State.Waiting.Message; !strings.Contains(m, "wants a login") {
		t.Errorf("a stranger is told %q", m)
	}
	b.eventually("people know", func() bool {
		return strings.Contains(b.reasons("stranger"), "FailedToRetrieveImagePullSecret: unable to retrieve some image pull secrets (missing)")
	})
	pod("friend", private, "Always", "  imagePullSecrets: [{name: login}]")
	says("friend", "one")
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Who gives a pod another image has its container started again from that, at once,
// whatever was waited for with the one before.
func TestRootPodImageChange(t *testing.T) {
	b := newBench(t)
	b.stop(syscall.SIGTERM)
	b.c.PullBackoff = time.Hour
	b.run("", 0)
	b.host(testenv.Binary(t), "--store", b.c.Images, "image", "tag", "base:1", "base:2")
	b.host(testenv.Binary(t), "--store", b.c.Images, "image", "tag", "base:1", "base:3")
	set := func(name, image string) {
		t.Helper()
		b.eventually("the image of "+name+" is set", func() bool { // its status is written meanwhile
			var pod map[string]any
			if !b.get("/api/v1/namespaces/default/pods/"+name, &pod) {
				return false
			}
			pod["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)["image"] = image
			raw, err := json.Marshal(pod)
			if err != nil {
				t.Fatal(err)
			}
			out, code := b.do(http.MethodPut, "/api/v1/namespaces/default/pods/"+name, raw)
			if code != http.StatusOK && code != http.StatusConflict {
				t.Fatalf("%d: %s", code, out)
			}
			return code == http.StatusOK
		})
	}
	runs := func(name, image string, restarts int32) *corev1.Pod {
		t.Helper()
		return b.until(name, "it runs from "+image, func(p *corev1.Pod) bool {
			s := state(p, "c")
			return ready(p) && strings.HasSuffix(s.Image, image) && s.RestartCount == restarts
		})
	}
	for name, w := range map[string]struct{ image, reason string }{"missing": {"127.0.0.1:5000/nothing:1", "ImagePullBackOff"}, "wrong": {"Not/A:Name:at:all", "InvalidImageName"}} {
		b.runPod(name, `
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "`+w.image+`", command: [sleep, "1000"]}]
`)
		b.until(name, "it waits", waits(w.reason))
		set(name, "base:1")
		runs(name, "base:1", 0)
	}
	b.runPod("p", `
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "base:1", command: [sleep, "1000"]}]
`)
	runs("p", "base:1", 0)
	set("p", "base:2")
	p := runs("p", "base:2", 1)
	if got := b.reasons("p"); !strings.Contains(got, "Killing: Container c definition changed, will be restarted") || state(p, "c").LastTerminationState.Terminated == nil {
		t.Errorf("events %s, status %+v", got, p.Status)
	}
	// Also one that was changed while nobody looked.
	set("p", "base:3")
	b.stop(syscall.SIGKILL)
	b.run("", 0)
	runs("p", "base:3", 2)
}
