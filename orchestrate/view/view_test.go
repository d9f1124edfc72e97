package view

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/api"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const born = `"creationTimestamp":"2026-01-02T02:04:05Z"`

// TestRows: each kind as kubectl get -o wide shows it.
func TestRows(t *testing.T) {
	r := api.NewRegistry()
	for _, c := range []struct{ doc, want string }{
		{`{"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"name":"a"},{"name":"b"}],"nodeName":"n"},"status":{"phase":"Running","podIP":"10.0.0.1",
			"containerStatuses":[{"name":"a","ready":true,"restartCount":2,"state":{"running":{}},"lastState":{"terminated":{"exitCode":1,"finishedAt":"2026-01-02T03:03:05Z"}}},
			{"name":"b","state":{"waiting":{"reason":"CrashLoopBackOff"}},"restartCount":3}]}}`, "x 1/2 CrashLoopBackOff 5 (60s ago) 60m 10.0.0.1 n <none> <none>"},
		{`{"apiVersion":"v1","kind":"Pod","metadata":{"deletionTimestamp":"2026-01-02T03:04:05Z"},"spec":{"containers":[{"name":"a"}]},"status":{"phase":"Running"}}`, "x 0/1 Terminating 0 60m <none> <none> <none> <none>"},
		{`{"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"name":"a"}]},"status":{"phase":"Succeeded","containerStatuses":[{"name":"a","state":{"terminated":{"exitCode":0,"reason":"Completed"}}}]}}`, "x 0/1 Completed 0 60m <none> <none> <none> <none>"},
		{`{"apiVersion":"v1","kind":"Pod","spec":{"initContainers":[{"name":"i"},{"name":"j"}],"containers":[{"name":"a"}]},"status":{"phase":"Pending","initContainerStatuses":[{"name":"i","state":{"terminated":{"exitCode":0}}},{"name":"j","state":{"running":{}}}]}}`, "x 0/1 Init:1/2 0 60m <none> <none> <none> <none>"},
		{`{"apiVersion":"v1","kind":"Pod","spec":{"initContainers":[{"name":"i"}],"containers":[{"name":"a"}]},"status":{"phase":"Pending","initContainerStatuses":[{"name":"i","restartCount":1,"state":{"terminated":{"exitCode":3}}}]}}`, "x 0/1 Init:ExitCode:3 1 60m <none> <none> <none> <none>"},
		{`{"apiVersion":"v1","kind":"Pod","spec":{"initContainers":[{"name":"s","restartPolicy":"Always"}],"containers":[{"name":"a"}]},"status":{"phase":"Running","initContainerStatuses":[{"name":"s","started":true,"ready":true,"state":{"running":{}}}],"containerStatuses":[{"name":"a","ready":true,"state":{"running":{}}}]}}`, "x 2/2 Running 0 60m <none> <none> <none> <none>"},
		{`{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":3,"selector":{"matchLabels":{"app":"a"}},"template":{"spec":{"containers":[{"name":"c","image":"i:1"},{"name":"d","image":"i:2"}]}}},"status":{"readyReplicas":1,"updatedReplicas":2,"availableReplicas":1}}`, "x 1/3 2 1 60m c,d i:1,i:2 app=a"},
		{`{"apiVersion":"apps/v1","kind":"ReplicaSet","spec":{"replicas":3,"selector":{"matchLabels":{"app":"a"}}},"status":{"replicas":2,"readyReplicas":1}}`, "x 3 2 1 60m   app=a"},
		{`{"apiVersion":"apps/v1","kind":"StatefulSet","spec":{"replicas":3},"status":{"readyReplicas":1}}`, "x 1/3 60m  "},
		{`{"apiVersion":"apps/v1","kind":"DaemonSet","spec":{"selector":{}},"status":{"desiredNumberScheduled":1,"numberReady":1}}`, "x 1 0 1 0 0 <none> 60m   <none>"},
		{`{"apiVersion":"batch/v1","kind":"Job","spec":{"completions":2,"selector":{}},"status":{"succeeded":1,"startTime":"2026-01-02T03:03:05Z"}}`, "x Running 1/2 60s 60m   <none>"},
		{`{"apiVersion":"batch/v1","kind":"CronJob","spec":{"schedule":"* * * * *","suspend":true,"jobTemplate":{"spec":{}}}}`, "x * * * * * <none> True 0 <none> 60m   <none>"},
		{`{"apiVersion":"v1","kind":"Service","spec":{"type":"NodePort","clusterIPs":["10.96.0.9"],"ports":[{"port":80,"nodePort":30080,"protocol":"TCP"}],"selector":{"app":"a"}}}`, "x NodePort 10.96.0.9 <none> 80:30080/TCP 60m app=a"},
		{`{"apiVersion":"v1","kind":"Service","spec":{"type":"LoadBalancer","clusterIP":"None"}}`, "x LoadBalancer None <pending> <none> 60m <none>"},
		{`{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4","ports":[{"port":80}],"endpoints":[{"addresses":["1.1.1.1"]},{"addresses":["2.2.2.2"]}]}`, "x IPv4 80 1.1.1.1,2.2.2.2 60m"},
		{`{"apiVersion":"v1","kind":"Endpoints","subsets":[{"addresses":[{"ip":"::1"},{"ip":"2.2.2.2"}],"ports":[{"port":80},{"port":81}]}]}`, "x [::1]:80,[::1]:81,2.2.2.2:80 + 1 more... 60m"},
		{`{"apiVersion":"v1","kind":"ConfigMap","data":{"a":"1"},"binaryData":{"b":"AA=="}}`, "x 2 60m"},
		{`{"apiVersion":"v1","kind":"Secret","type":"Opaque","data":{"a":"AA=="}}`, "x Opaque 1 60m"},
		{`{"apiVersion":"v1","kind":"Node","metadata":{"labels":{"node-role.kubernetes.io/worker":""}},"spec":{"unschedulable":true},"status":{"conditions":[{"type":"Ready","status":"False"}]}}`, "x NotReady,SchedulingDisabled worker 60m  <none> <none> <unknown> <unknown> <unknown>"},
		{`{"apiVersion":"v1","kind":"PersistentVolumeClaim","spec":{"volumeName":"v","storageClassName":"local"},"status":{"phase":"Bound","capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"]}}`, "x Bound v 1Gi RWO local <unset> 60m "},
		{`{"apiVersion":"v1","kind":"PersistentVolume","spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteMany"],"persistentVolumeReclaimPolicy":"Delete","claimRef":{"namespace":"n","name":"c"}},"status":{"phase":"Bound"}}`, "x 1Gi RWX Delete Bound n/c  <unset>  60m "},
		{`{"apiVersion":"storage.k8s.io/v1","kind":"StorageClass","metadata":{"annotations":{"storageclass.kubernetes.io/is-default-class":"true"}},"provisioner":"p"}`, "x (default) p Delete Immediate false 60m"},
		{`{"apiVersion":"v1","kind":"Event","type":"Warning","reason":"BackOff","message":"no\n","count":3,"firstTimestamp":"2026-01-02T02:04:05Z","lastTimestamp":"2026-01-02T03:03:05Z","involvedObject":{"kind":"Pod","name":"p"},"source":{"component":"node"}}`, "60s Warning BackOff pod/p  node no 60m 3 x"},
		{`{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{"ownerReferences":[{"apiVersion":"apps/v1","kind":"StatefulSet","name":"db","controller":true}]},"revision":2}`, "x statefulset.apps/db 2 60m"},
		{`{"apiVersion":"v1","kind":"Namespace","status":{"phase":"Active"}}`, "x Active 60m"},
	} {
		doc := c.doc
		if strings.Contains(doc, `"metadata":{`) {
			doc = strings.Replace(doc, `"metadata":{`, `"metadata":{"name":"x",`+born+`,`, 1)
		} else {
			doc = doc[:len(doc)-1] + `,"metadata":{"name":"x",` + born + `}}`
		}
		all, err := r.Decode([]byte(doc))
		if err != nil {
			t.Fatalf("%v: %s", err, doc)
		}
		row, err := Row(all[0].Kind, all[0].Object, now, "None")
		if err != nil {
			t.Fatal(err)
		}
		var cells []string
		for _, x := range row.Cells {
			cells = append(cells, fmt.Sprint(x))
		}
		if got := strings.Join(cells, " "); got != c.want {
			t.Errorf("%s\ngot  %s\nwant %s", c.doc, got, c.want)
		}
		if n := len(Columns(all[0].Kind)); n != len(row.Cells) {
			t.Errorf("%s: %d cells in %d columns", all[0].Kind.Kind, len(row.Cells), n)
		}
		if _, err := Describe(all[0].Object, &Context{Now: now}); err != nil {
			t.Errorf("%s: %v", all[0].Kind.Kind, err)
		}
	}
	// Every kind has cells for its columns, however little it says of itself.
	for _, k := range r.Kinds() {
		if row, err := Row(k, k.New(), now, ""); err != nil || len(row.Cells) != len(Columns(k)) {
			t.Errorf("%s: %d cells in %d columns, %v", k.Kind, len(row.Cells), len(Columns(k)), err)
		}
		if _, err := Describe(k.New(), &Context{Now: now}); err != nil {
			t.Errorf("%s: %v", k.Kind, err)
		}
	}
}

func TestJSONPath(t *testing.T) {
	var doc any
	if err := json.Unmarshal([]byte(`{"a":{"b.c":"dot","n":3,"l":[1,2,3]},"items":[{"name":"x","ok":true,"v":1},{"name":"y","v":5}]}`), &doc); err != nil {
		t.Fatal(err)
	}
	for template, want := range map[string]string{
		"{.a.n}": "3", "a.n": "3", ".a.n": "3", "{.a['b.c']}": "dot", `{.a.b\.c}`: "dot", "{.a.l[0]}": "1", "{.a.l[-1]}": "3", "{.a.l[1:]}": "2 3", "{.a.l[*]}": "1 2 3",
		"{.items[*].name}": "x y", `{range .items[*]}{.name}={.v}{"\n"}{end}`: "x=1\ny=5\n", `{.items[?(@.name=="y")].v}`: "5", "{.items[?(@.v>2)].name}": "y",
		"{.items[?(@.ok)].name}": "x", "{.none}": "", "{.none.below}": "", "text {.a.n} more": "text 3 more", "{$.a.n}": "3", "{.a.l}": "[1,2,3]", "{range .items[*]}{$.a.n}{end}": "33",
		"{.a.l[0,2]}": "1 3", "{.a.l[::2]}": "1 3", "{.a.l[0:3:2]}": "1 3", "{.items[*]['name', 'v']}": "x y 1 5", "{..name}": "x y", "{..l[0]}": "1", "{.items..v}": "1 5", "{$..v}": "1 5",
		"{.a['l']}": "[1,2,3]", "{.items['none']}": "", `{.items[?(@.name=="x,y")].v}`: "",
	} {
		if got, err := JSONPath(template, doc); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", template, got, err, want)
		}
	}
	for _, template := range []string{"{.a", "{range .items[*]}", "{end}", "{.a.l[9]}", "{.a.l[x]}", "{.a.l[::0]}", "{.a.l[0,x]}", "{.a.l[]}", "{.a[0", `{"x}`} {
		if got, err := JSONPath(template, doc); err == nil {
			t.Errorf("%s: %q, want an error", template, got)
		}
	}
}

// TestPrint: columns stand under each other, also those that come later.
func TestPrint(t *testing.T) {
	var b strings.Builder
	rows := &Rows{W: &b, Prefix: "pod/"}
	table := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{{Name: "Name"}, {Name: "Status"}, {Name: "Hidden", Priority: 1}}}
	table.Rows = []metav1.TableRow{{Cells: []any{"a-long-name", "x\x1b[31m\ny", "h"}}, {Cells: []any{"b", nil, "h"}}}
	meta := func(*metav1.TableRow) (string, map[string]string) { return "", nil }
	if err := rows.Print(table, meta); err != nil {
		t.Fatal(err)
	}
	if err := rows.Print(&metav1.Table{Rows: []metav1.TableRow{{Cells: []any{"c", "z", "h"}}}}, meta); err != nil {
		t.Fatal(err)
	}
	const want = "NAME              STATUS\npod/a-long-name   x?[31m y\npod/b             \npod/c             z\n"
	if b.String() != want {
		t.Errorf("%q", b.String())
	}
}

// TestDescribeClean: what an object says cannot move the cursor.
func TestDescribeClean(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Annotations: map[string]string{"a": "\x1b[2J\nStatus: fine"}}}
	text, err := Describe(p, &Context{Now: now, Events: []corev1.Event{{Reason: "R", Message: "\x1b[0m\nEvents: <none>"}}})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, "\x1b") || strings.Contains(text, "\nStatus: fine") || strings.Contains(text, "\nEvents: <none>") {
		t.Errorf("%s", text)
	}
}
