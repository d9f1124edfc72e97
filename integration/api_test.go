package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
)

// supervisorAPI asks minirund at its socket, without a process for each question.
type supervisorAPI struct {
	t      *testing.T
	socket string
}

// Paths of kinds in the namespace default.
const (
	apiPods        = "/api/v1/namespaces/default/pods"
	apiServices    = "/api/v1/namespaces/default/services"
	apiDeployments = "/apis/apps/v1/namespaces/default/deployments"
	apiSets        = "/apis/apps/v1/namespaces/default/statefulsets"
	apiJobs        = "/apis/batch/v1/namespaces/default/jobs"
	apiCronJobs    = "/apis/batch/v1/namespaces/default/cronjobs"
)

// apiObject is what tests look at, of whatever kind.
type apiObject struct {
	Metadata struct {
		Name, UID       string
		Labels          map[string]string
		OwnerReferences []struct{ Kind, Name string }
	}
	Spec struct {
		ClusterIP, VolumeName string
	}
	Status struct {
		Phase, Reason, PodIP, StartTime          string
		Active, Succeeded, Failed                int
		AvailableReplicas, ReadyReplicas         int
		LastScheduleTime                         string
		Conditions                               []apiCondition
		InitContainerStatuses, ContainerStatuses []apiContainer
	}
}

type apiCondition struct{ Type, Status, Reason, LastTransitionTime string }

type apiContainer struct {
	Name, ContainerID string
	RestartCount      int
	Ready             bool
	State, LastState  struct {
		Running    *struct{ StartedAt string }
		Waiting    *struct{ Reason string }
		Terminated *struct {
			ExitCode                      int
			Reason, StartedAt, FinishedAt string
		}
	}
}

// is tells whether a condition is true.
func (o *apiObject) is(kind string) bool { return o.condition(kind).Status == "True" }

func (o *apiObject) condition(kind string) apiCondition {
	for _, c := range o.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return apiCondition{}
}

// container is the status of the first container.
func (o *apiObject) container() apiContainer {
	if len(o.Status.ContainerStatuses) == 0 {
		return apiContainer{}
	}
	return o.Status.ContainerStatuses[0]
}

func (a supervisorAPI) do(method, path, contentType, body string) (int, string) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testenv.Timeout(20*time.Second))
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, method, "http://minirund"+path, bytes.NewReader([]byte(body)))
	if err != nil {
		a.t.Fatal(err)
	}
	if contentType != "" {
		q.Header.Set("Content-Type", contentType)
	}
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", a.socket)
	}}
	resp, err := (&http.Client{Transport: tr}).Do(q)
	if err != nil {
		a.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, string(b)
}

// get is an object; nil if there is none.
func (a supervisorAPI) get(kind, name string) *apiObject {
	a.t.Helper()
	code, body := a.do(http.MethodGet, kind+"/"+name, "", "")
	if code == http.StatusNotFound {
		return nil
	}
	o := &apiObject{}
	if err := json.Unmarshal([]byte(body), o); code != http.StatusOK || err != nil {
		a.t.Fatalf("get %s/%s: %d %s, %v", kind, name, code, body, err)
	}
	return o
}

func (a supervisorAPI) list(kind string) []*apiObject {
	a.t.Helper()
	var l struct{ Items []*apiObject }
	code, body := a.do(http.MethodGet, kind, "", "")
	if err := json.Unmarshal([]byte(body), &l); code != http.StatusOK || err != nil {
		a.t.Fatalf("list %s: %d %s, %v", kind, code, body, err)
	}
	return l.Items
}

// of are the objects of a kind that an owner has, by name.
func (a supervisorAPI) of(kind, owner string) []*apiObject {
	a.t.Helper()
	return slices.DeleteFunc(a.list(kind), func(o *apiObject) bool {
		return len(o.Metadata.OwnerReferences) == 0 || o.Metadata.OwnerReferences[0].Name != owner
	})
}

// labelled are the pods with the label app.
func (a supervisorAPI) labelled(app string) []*apiObject {
	a.t.Helper()
	return slices.DeleteFunc(a.list(apiPods), func(o *apiObject) bool { return o.Metadata.Labels["app"] != app })
}

// touch changes an object in a way that means nothing, so that it is looked at.
func (a supervisorAPI) touch(kind, name, mark string) {
	a.t.Helper()
	code, body := a.do(http.MethodPatch, kind+"/"+name, "application/merge-patch+json", fmt.Sprintf(`{"metadata":{"annotations":{"test":%q}}}`, mark))
	if code != http.StatusOK {
		a.t.Fatalf("patch %s/%s: %d %s", kind, name, code, body)
	}
}

// until waits for an object to be as it should, and is it.
func (a supervisorAPI) until(kind, name, what string, ok func(*apiObject) bool) *apiObject {
	a.t.Helper()
	deadline := time.Now().Add(testenv.Timeout(20 * time.Second))
	for {
		o := a.get(kind, name)
		if ok(o) {
			return o
		}
		if time.Now().After(deadline) {
			_, body := a.do(http.MethodGet, kind+"/"+name, "", "")
			_, events := a.do(http.MethodGet, "/api/v1/namespaces/default/events", "", "")
			a.t.Fatalf("timed out: %s: %s\n%s\n%s", name, what, strings.TrimSpace(body), events)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
