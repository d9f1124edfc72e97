package host

import (
	"context"
	"net/netip"
	"path/filepath"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/minirun/minirun/orchestrate/store"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func fine() Facts {
	return Facts{
		Name: "here", Version: "1", MaxPods: 500, CPUs: 2, Memory: 4 << 30, Available: 2 << 30, Disk: 100 << 30, DiskFree: 50 << 30, Inodes: 1000, InodesFree: 500,
		MaxPIDs: 1000, PIDs: 100, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7")},
	}
}

func status(n *corev1.Node, t corev1.NodeConditionType) corev1.ConditionStatus {
	if c := find(n, t); c != nil {
		return c.Status
	}
	return ""
}

func TestNode_Pressure(t *testing.T) {
	for _, tt := range []struct {
		change func(*Facts)
		want   corev1.NodeConditionType
		taint  string
	}{
		{func(f *Facts) { f.Available = leastMemory - 1 }, corev1.NodeMemoryPressure, corev1.TaintNodeMemoryPressure},
		{func(f *Facts) { f.DiskFree = f.Disk/10 - 1<<20 }, corev1.NodeDiskPressure, corev1.TaintNodeDiskPressure},
		{func(f *Facts) { f.InodesFree = 49 }, corev1.NodeDiskPressure, corev1.TaintNodeDiskPressure},
		{func(f *Facts) { f.PIDs = 901 }, corev1.NodePIDPressure, corev1.TaintNodePIDPressure},
	} {
		n := Node(&corev1.Node{}, fine(), epoch)
		for _, c := range n.Status.Conditions {
			if want := c.Type == corev1.NodeReady; (c.Status == corev1.ConditionTrue) != want {
				t.Errorf("%s is %s", c.Type, c.Status)
			}
		}
		f := fine()
		tt.change(&f)
		n = Node(n, f, epoch.Add(time.Second))
		if status(n, tt.want) != corev1.ConditionTrue || len(n.Spec.Taints) != 1 || n.Spec.Taints[0].Key != tt.taint {
			t.Errorf("%s: %+v, %+v", tt.want, n.Status.Conditions, n.Spec.Taints)
		}
		// It goes on for two hours, then it is over, which is believed after five minutes.
		now := epoch
		for range 2 * 360 {
			now = now.Add(10 * time.Second)
			n = Node(n, f, now)
		}
		if seen := find(n, tt.want).LastHeartbeatTime; now.Sub(seen.Time) > notice {
			t.Errorf("last seen %v ago", now.Sub(seen.Time))
		}
		if n = Node(n, fine(), now.Add(2*time.Minute)); status(n, tt.want) != corev1.ConditionTrue {
			t.Error("over too early")
		}
		if n = Node(n, fine(), now.Add(6*time.Minute)); status(n, tt.want) != corev1.ConditionFalse || n.Spec.Taints != nil {
			t.Errorf("not over: %+v", n.Spec.Taints)
		}
		// A clock that was set back does not keep it for ever.
		n = Node(Node(n, f, now.Add(time.Hour)), fine(), now)
		if status(n, tt.want) != corev1.ConditionFalse {
			t.Error("not over after the clock was set back")
		}
	}
}

// What users wrote stays, and what does not change is not written.
func TestNode_Users(t *testing.T) {
	n := &corev1.Node{}
	n.Labels = map[string]string{"disk": "ssd"}
	n.Spec.Taints = []corev1.Taint{{Key: "mine", Effect: corev1.TaintEffectNoSchedule}}
	n.Spec.Unschedulable = true
	n = Node(n, fine(), epoch)
	if n.Labels["disk"] != "ssd" || n.Labels[corev1.LabelHostname] != "here" || len(n.Spec.Taints) != 2 {
		t.Errorf("%+v", n)
	}
	if again := Node(n, fine(), epoch.Add(time.Minute)); !reflect.DeepEqual(again, n) {
		t.Errorf("%+v, was %+v", again, n)
	}
	n.Spec.Unschedulable = false
	if n = Node(n, fine(), epoch); len(n.Spec.Taints) != 1 || n.Spec.Taints[0].Key != "mine" {
		t.Errorf("%+v", n.Spec.Taints)
	}
	if m := n.Status.Allocatable[corev1.ResourceMemory]; m.Value() != 4<<30-leastMemory {
		t.Errorf("%s", m.String())
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := store.Open(filepath.Join(t.TempDir(), "store.db"), []store.Kind{{Name: kind, New: func() store.Object { return &corev1.Node{} }}}, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		h, err := New(Options{Store: s, Name: "here"})
		if err != nil {
			t.Fatal(err)
		}
		h.look = func() (Facts, error) { return fine(), nil }
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- h.Run(ctx) }()
		time.Sleep(time.Second)
		synctest.Wait()
		obj, err := s.Get(kind, "", "here")
		if err != nil || status(obj.(*corev1.Node), corev1.NodeReady) != corev1.ConditionTrue || obj.(*corev1.Node).Status.Addresses[0].Address != "192.0.2.7" {
			t.Fatalf("%v, %+v", err, obj)
		}
		at := s.Revision()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := s.Revision() - at; n < 6 || n > 15 {
			t.Errorf("%d writes in an hour", n)
		}
		// One that is deleted comes back.
		if _, err := s.Delete(kind, "", "here", store.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * every)
		synctest.Wait()
		if _, err := s.Get(kind, "", "here"); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// This host, whatever it is.
func TestLook(t *testing.T) {
	f, err := Look(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if f.CPUs < 1 || f.Memory < 1<<20 || f.Available <= 0 || f.Available > f.Memory || f.Disk <= 0 || f.DiskFree > f.Disk || f.MaxPIDs < f.PIDs || f.PIDs < 1 || f.Kernel == "" || f.OS == "" || len(f.BootID) != 36 {
		t.Errorf("%+v", f)
	}
	if _, err := Look("/does/not/exist"); err == nil {
		t.Error("a directory that is not there is fine")
	}
	if _, err := tasks("0.1 0.2 0.3"); err == nil {
		t.Error("tasks")
	}
	if got := prettyName("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"); got != "Debian GNU/Linux 12" {
		t.Error(got)
	}
}
