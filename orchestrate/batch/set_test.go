package batch

import (
	"fmt"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// jumps are what a clock is set by.
var jumps = []time.Duration{time.Hour, 400 * 24 * time.Hour, -time.Hour, -56 * 365 * 24 * time.Hour}

// after is the clock after a jump, for times that were written before it.
func after(jump time.Duration) func(types.UID, time.Time) time.Time {
	return func(_ types.UID, t time.Time) time.Time { return t.Add(jump) }
}

// Waits, deadlines and the time that a Job stays are durations: a clock that is set
// meanwhile makes none of them shorter or longer.
func TestJob_ClockSet(t *testing.T) {
	at := func(d time.Duration) *metav1.Time { m := metav1.NewTime(epoch.Add(d)); return &m }
	failed := func(name string, end time.Duration) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Finalizers: []string{Finalizer}}}
		p.Status.Phase = corev1.PodFailed
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, FinishedAt: *at(end)}}}}
		return p
	}
	for _, jump := range jumps {
		for _, indexed := range []bool{false, true} {
			w := newWorld(t, nil, func(s *batchv1.JobSpec) {
				s.ActiveDeadlineSeconds = ptr(int64(60))
				if indexed {
					s.CompletionMode = ptr(batchv1.IndexedCompletion)
				}
			})
			w.job.Status.StartTime = at(0)
			pod := failed("one", 4*time.Second)
			pod.Annotations = map[string]string{batchv1.JobCompletionIndexAnnotation: "0"}
			sync := func(passed time.Duration) JobPlan {
				plan, err := Job(JobState{Job: w.job, Pods: []*corev1.Pod{pod}, Now: epoch.Add(passed + jump), Then: after(jump)})
				if err != nil {
					t.Fatal(err)
				}
				return plan
			}
			name := fmt.Sprintf("jump %s, indexed %v", jump, indexed)
			if plan := sync(10 * time.Second); len(plan.Create) != 0 || !plan.Again.Equal(epoch.Add(14*time.Second+jump)) {
				t.Errorf("%s: before the wait is over: creates %d, again at %s", name, len(plan.Create), plan.Again)
			}
			if plan := sync(15 * time.Second); len(plan.Create) != 1 || !plan.Again.Equal(epoch.Add(time.Minute+jump)) {
				t.Errorf("%s: after it: creates %d, again at %s", name, len(plan.Create), plan.Again)
			}
			if plan := sync(time.Minute); trueOf(&plan.Status, batchv1.JobFailureTarget) == nil {
				t.Errorf("%s: after the deadline: %+v", name, plan.Status.Conditions)
			}
		}
		w := newWorld(t, nil, func(s *batchv1.JobSpec) { s.TTLSecondsAfterFinished = ptr(int32(60)) })
		w.job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue, LastTransitionTime: *at(0)}}
		for passed, gone := range map[time.Duration]bool{time.Second: false, 59 * time.Second: false, time.Minute: true} {
			if plan, err := Job(JobState{Job: w.job, Now: epoch.Add(passed + jump), Then: after(jump)}); err != nil || plan.Remove != gone {
				t.Errorf("jump %s, %s after its end: removed %v, %v", jump, passed, plan.Remove, err)
			}
		}
	}
}

// Of the Jobs that are over those go that are really the oldest.
func TestCronJob_HistoryClockSet(t *testing.T) {
	c := newClock(t, "* * * * *", func(s *batchv1.CronJobSpec) { s.SuccessfulJobsHistoryLimit = ptr(int32(1)) })
	jump := -56 * 365 * 24 * time.Hour
	job := func(name string, start time.Time) *batchv1.Job {
		j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}}
		began := metav1.NewTime(start)
		j.Status.StartTime = &began
		j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
		return j
	}
	older, newer := job("older", epoch), job("newer", epoch.Add(time.Minute+jump))
	plan, err := CronJob(CronState{Cron: c.cron, Jobs: []*batchv1.Job{newer, older}, Now: epoch.Add(2*time.Minute + jump), Then: func(uid types.UID, t time.Time) time.Time {
		if uid == "older" {
			return t.Add(jump)
		}
		return t
	}})
	if err != nil || len(plan.Delete) != 1 || plan.Delete[0] != older {
		t.Errorf("deletes %v, %v", plan.Delete, err)
	}
}
