package controller

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/batch"
	"github.com/minirun/minirun/orchestrate/store"
)

// worker ends pods whose image says how: example/exit:STATUS, after five seconds.
func (c *cluster) worker() {
	ctx, cancel := context.WithCancel(context.Background())
	c.t.Cleanup(cancel)
	w := c.watch(pods)
	c.wg.Go(func() {
		seen := map[string]bool{}
		for {
			e, err := w.Next(ctx)
			if err != nil {
				return
			}
			p := e.Object.(*corev1.Pod)
			code, ok := strings.CutPrefix(p.Spec.Containers[0].Image, "example/exit:")
			if !ok || e.Type == store.Deleted || seen[string(p.UID)] {
				continue
			}
			seen[string(p.UID)] = true
			status, _ := strconv.Atoi(code)
			c.later(ctx, 5*time.Second, func() {
				n := p.DeepCopy()
				n.ResourceVersion = ""
				n.Status = corev1.PodStatus{Phase: corev1.PodSucceeded}
				if status != 0 {
					n.Status.Phase = corev1.PodFailed
				}
				n.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: int32(status), FinishedAt: metav1.Now()}}}}
				c.s.Update(pods, n, store.Status)
			})
		}
	})
}

func work(name string, status int, change func(*batchv1.JobSpec)) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}}
	j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	j.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: fmt.Sprint("example/exit:", status)}}
	if change != nil {
		change(&j.Spec)
	}
	return j
}

func n32(n int32) *int32 { return &n }

func TestJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.worker()
		job := create(c, jobs, work("sum", 0, func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = n32(10), n32(3) }))
		if job.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] != string(job.UID) || job.Spec.Template.Labels[batchv1.JobNameLabel] != "sum" {
			t.Errorf("%+v", job.Spec)
		}
		// Whoever carries it out is replaced all the time.
		for i := range 60 {
			time.Sleep(time.Duration(i*37%700) * time.Millisecond)
			c.stopController()
			c.startController()
		}
		pass(time.Minute)
		st := get[*batchv1.Job](c, jobs, "sum").Status
		if st.Succeeded != 10 || st.Failed != 0 || st.CompletionTime == nil || batch.Finished(get[*batchv1.Job](c, jobs, "sum")) == nil || len(c.pods()) != 10 {
			t.Errorf("%+v, %d pods", st, len(c.pods()))
		}
		// It never runs twice, not even if its pods are gone.
		for _, p := range c.pods() {
			if batch.Tracked(p) {
				t.Errorf("%s is still held", p.Name)
			}
			if _, err := c.s.Delete(pods, p.Namespace, p.Name, store.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		at := c.s.Revision()
		c.stopController()
		c.startController()
		pass(24 * time.Hour)
		if now := c.s.Revision(); now != at || len(c.pods()) != 0 {
			t.Errorf("%d writes, %d pods", now-at, len(c.pods()))
		}

		// A pod that is deleted is counted, and replaced.
		create(c, jobs, work("lost", 0, nil))
		synctest.Wait()
		if _, err := c.s.Delete(pods, "default", c.pods()[0].Name, store.DeleteOptions{Grace: 30}); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Minute)
		if st := get[*batchv1.Job](c, jobs, "lost").Status; st.Succeeded != 1 || st.Failed != 1 {
			t.Errorf("%+v", st)
		}

		// One that fails ends, and goes after its time.
		create(c, jobs, work("bad", 3, func(s *batchv1.JobSpec) { s.BackoffLimit, s.TTLSecondsAfterFinished = n32(1), n32(3600) }))
		pass(10 * time.Minute)
		bad := get[*batchv1.Job](c, jobs, "bad")
		if end := batch.Finished(bad); end == nil || end.Reason != "BackoffLimitExceeded" || bad.Status.Failed != 2 {
			t.Errorf("%+v", bad.Status)
		}
		pass(2 * time.Hour)
		if _, err := c.s.Get(jobs, "default", "bad"); err == nil {
			t.Error("it is still there")
		}
		for _, p := range c.pods() {
			if strings.HasPrefix(p.Name, "bad") {
				t.Errorf("%s is still there", p.Name)
			}
		}

		// A Job that is deleted while it runs leaves nothing, a pod that loses its
		// Job is let go.
		create(c, jobs, work("gone", 0, func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = n32(5), n32(5) }))
		synctest.Wait()
		if _, err := c.s.Delete(jobs, "default", "gone", store.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		create(c, jobs, work("orphan", 0, nil))
		synctest.Wait()
		if _, err := c.s.Delete(jobs, "default", "orphan", store.DeleteOptions{Finalizers: []string{metav1.FinalizerOrphanDependents}}); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		for _, p := range c.pods() {
			if strings.HasPrefix(p.Name, "gone") || batch.Tracked(p) {
				t.Errorf("%s is still there", p.Name)
			}
		}
	})
}

func TestCronJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.worker()
		cron := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "tick"}}
		cron.Spec.Schedule, cron.Spec.JobTemplate.Spec = "*/10 * * * *", work("", 0, nil).Spec
		create(c, cronJobs, cron)
		made := map[string]bool{}
		for i := range 12 * 6 {
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if i%5 == 0 {
				c.stopController()
				c.startController()
				synctest.Wait()
			}
			l, _ := list[*batchv1.Job](c.s, jobs, "default")
			for _, j := range l {
				made[j.Name] = true
			}
			if len(l) > 5 {
				t.Fatalf("%d jobs are kept", len(l))
			}
		}
		st := get[*batchv1.CronJob](c, cronJobs, "tick").Status
		if len(made) != 72 || st.LastScheduleTime == nil || time.Since(st.LastScheduleTime.Time) > 10*time.Minute || st.LastSuccessfulTime == nil {
			t.Errorf("%d jobs in 12 hours, %+v", len(made), st)
		}
		change(c, cronJobs, "tick", func(j *batchv1.CronJob) { yes := true; j.Spec.Suspend = &yes })
		pass(time.Minute)
		at := c.s.Revision()
		pass(24 * time.Hour)
		if now := c.s.Revision(); now != at {
			t.Errorf("%d writes while suspended", now-at)
		}
		// Down for a day: the last time counts, the others are missed.
		c.stopController()
		change(c, cronJobs, "tick", func(j *batchv1.CronJob) { j.Spec.Suspend = nil })
		was := len(made)
		time.Sleep(24*time.Hour + time.Minute)
		c.startController()
		pass(time.Minute)
		l, _ := list[*batchv1.Job](c.s, jobs, "default")
		for _, j := range l {
			made[j.Name] = true
		}
		if len(made) != was+1 {
			t.Errorf("%d jobs after a day", len(made)-was)
		}
		if _, err := c.s.Delete(cronJobs, "default", "tick", store.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if l, _ := list[*batchv1.Job](c.s, jobs, "default"); len(l)+len(c.pods()) != 0 {
			t.Errorf("%d jobs and %d pods are left", len(l), len(c.pods()))
		}
	})
}

// A clock that is set while the controller sleeps is noticed.
func TestCronJobs_Clock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.worker()
		cron := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "daily"}}
		cron.Spec.Schedule, cron.Spec.JobTemplate.Spec = "0 12 * * *", work("", 0, nil).Spec
		create(c, cronJobs, cron)
		count := func() int {
			l, _ := list[*batchv1.Job](c.s, jobs, "default")
			return len(l)
		}
		pass(time.Hour)
		if count() != 0 {
			t.Fatal("it has run")
		}
		c.mu.Lock()
		c.ahead = 11*time.Hour + time.Minute // it is a minute past noon now
		c.mu.Unlock()
		if pass(2 * lookAtClock); count() != 1 {
			t.Errorf("%d jobs after the clock was set", count())
		}
		c.mu.Lock()
		c.ahead = 0 // and back
		c.mu.Unlock()
		if pass(23 * time.Hour); count() > 2 {
			t.Errorf("%d jobs after the clock was set back", count())
		}
		if pass(48 * time.Hour); count() < 3 {
			t.Errorf("%d jobs two days later", count())
		}
	})
}
