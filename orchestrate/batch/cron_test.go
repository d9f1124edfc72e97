package batch

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// clock is a CronJob and the Jobs it has made.
type clock struct {
	t    *testing.T
	cron *batchv1.CronJob
	jobs map[string]*batchv1.Job
	now  time.Time
	uid  int
	made []string // the times they are for
	say  []string
	plan CronPlan
}

func newClock(t *testing.T, schedule string, change func(*batchv1.CronJobSpec)) *clock {
	c := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "nightly", UID: "cron", CreationTimestamp: metav1.NewTime(epoch)}}
	c.Spec.Schedule, c.Spec.ConcurrencyPolicy = schedule, batchv1.AllowConcurrent
	if change != nil {
		change(&c.Spec)
	}
	return &clock{t: t, cron: c, jobs: map[string]*batchv1.Job{}, now: epoch}
}

func (c *clock) sync(steps int) {
	c.t.Helper()
	in := CronState{Cron: c.cron, Now: c.now}
	for _, name := range slices.Sorted(maps.Keys(c.jobs)) {
		in.Jobs = append(in.Jobs, c.jobs[name])
	}
	plan, err := CronJob(in)
	if err != nil {
		c.t.Fatal(err)
	}
	if again, _ := CronJob(in); !reflect.DeepEqual(again, plan) {
		c.t.Fatal("the same state gave another plan")
	}
	c.plan = plan
	did := 0
	do := func(f func()) {
		if did++; did <= steps {
			f()
		}
	}
	for _, j := range plan.Replace {
		do(func() { delete(c.jobs, j.Name) })
	}
	if j := plan.Create; j != nil {
		do(func() {
			if c.jobs[j.Name] != nil {
				return
			}
			c.uid++
			n := j.DeepCopy()
			n.UID = types.UID(fmt.Sprint("job", c.uid))
			n.CreationTimestamp = metav1.NewTime(c.now)
			c.jobs[n.Name] = n
			c.made = append(c.made, n.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
		})
	}
	do(func() {
		c.cron.Status = plan.Status
		for _, e := range plan.Events {
			c.say = append(c.say, e.Reason)
		}
	})
	for _, j := range plan.Delete {
		do(func() { delete(c.jobs, j.Name) })
	}
}

func (c *clock) finish(t batchv1.JobConditionType) {
	for _, j := range c.jobs {
		if Finished(j) == nil {
			at := metav1.NewTime(c.now)
			j.Status.StartTime, j.Status.CompletionTime = &at, &at
			j.Status.Conditions = []batchv1.JobCondition{{Type: t, Status: corev1.ConditionTrue}}
		}
	}
}

// Whatever is lost in between, and however time passes, every time of the
// schedule has at most one Job, the last one that passed has one, and the rest
// are only missed when time jumped over them.
func TestCronJob_Property(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 22))
	for range 60 {
		c := newClock(t, []string{"* * * * *", "*/5 * * * *", "30 3 * * *", "@hourly"}[r.IntN(4)], func(s *batchv1.CronJobSpec) {
			s.SuccessfulJobsHistoryLimit, s.FailedJobsHistoryLimit = ptr(int32(r.IntN(2))), ptr(int32(0))
		})
		for range 80 {
			switch r.IntN(8) {
			case 0:
				c.now = c.now.Add(time.Duration(r.IntN(3*24*3600)) * time.Second)
			case 1:
				c.now = c.now.Add(-time.Duration(r.IntN(3000)) * time.Second) // set back, less than an hour
			default:
				c.now = c.now.Add(time.Duration(r.IntN(400)) * time.Second)
			}
			c.sync(r.IntN(4))
			if r.IntN(2) == 0 {
				c.finish([]batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed}[r.IntN(2)])
			}
		}
		seen := map[string]bool{}
		for _, at := range c.made {
			if seen[at] {
				t.Fatalf("%s: %s has run twice: %v", c.cron.Spec.Schedule, at, c.made)
			}
			seen[at] = true
		}
		if len(c.made) == 0 {
			t.Fatalf("%s: nothing has run", c.cron.Spec.Schedule)
		}
		c.now = c.now.Add(48 * time.Hour)
		c.sync(1 << 30)
		at, _ := time.Parse(time.RFC3339, c.made[len(c.made)-1])
		if late := c.now.Sub(at); late > 24*time.Hour {
			t.Fatalf("%s: the last one was %v ago", c.cron.Spec.Schedule, late)
		}
		if c.sync(1 << 30); c.plan.Create != nil {
			t.Fatal("and again")
		}
	}
}

func TestCronJob_Concurrency(t *testing.T) {
	for policy, want := range map[batchv1.ConcurrencyPolicy]string{
		batchv1.AllowConcurrent:   "3 made, 3 there",
		batchv1.ForbidConcurrent:  "1 made, 1 there",
		batchv1.ReplaceConcurrent: "3 made, 1 there",
	} {
		c := newClock(t, "* * * * *", func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = policy })
		for range 3 {
			c.now = c.now.Add(time.Minute)
			c.sync(1 << 30)
			c.sync(1 << 30)
		}
		if got := fmt.Sprintf("%d made, %d there", len(c.made), len(c.jobs)); got != want {
			t.Errorf("%s: %s, want %s", policy, got, want)
		}
		if policy == batchv1.ForbidConcurrent {
			// What was held back runs once the other is done.
			c.finish(batchv1.JobComplete)
			if c.sync(1 << 30); len(c.made) != 2 || !strings.Contains(fmt.Sprint(c.say), "JobAlreadyActive") || c.cron.Status.LastSuccessfulTime == nil {
				t.Errorf("%v, %v", c.made, c.say)
			}
		}
	}
}

func TestCronJob_Deadline(t *testing.T) {
	c := newClock(t, "0 * * * *", func(s *batchv1.CronJobSpec) { s.StartingDeadlineSeconds = ptr(int64(60)) })
	c.now = epoch.Add(time.Hour + 59*time.Second)
	if c.sync(1 << 30); len(c.made) != 1 {
		t.Errorf("within the deadline: %v", c.made)
	}
	c.now = epoch.Add(2*time.Hour + 61*time.Second)
	c.sync(1 << 30)
	c.sync(1 << 30)
	if len(c.made) != 1 || strings.Count(fmt.Sprint(c.say), "MissSchedule") != 1 {
		t.Errorf("after it: %v, %v", c.made, c.say)
	}
	if got := c.plan.Again; !got.Equal(epoch.Add(3 * time.Hour)) {
		t.Errorf("again at %v", got)
	}
}

// A clock that was wrong for a while does no harm.
func TestCronJob_ClockJumps(t *testing.T) {
	c := newClock(t, "* * * * *", nil)
	minutes := func(n int) (made int) {
		was := len(c.made)
		for range n {
			c.now = c.now.Add(time.Minute)
			c.sync(1 << 30)
			c.finish(batchv1.JobComplete)
		}
		return len(c.made) - was
	}
	if n := minutes(5); n != 5 {
		t.Errorf("%d in 5 minutes", n)
	}
	// A year ahead: one Job, not half a million, and at once.
	c.now = c.now.AddDate(1, 0, 0)
	start := time.Now()
	if n := minutes(1); n != 1 || time.Since(start) > time.Minute {
		t.Errorf("%d after a year, in %v", n, time.Since(start))
	}
	if got := strings.Count(fmt.Sprint(c.say), "TooManyMissedTimes"); got != 1 {
		t.Errorf("said %d times", got)
	}
	// And back: it goes on from there, and does not wait for a year.
	c.now = c.now.AddDate(-1, 0, 0)
	c.sync(1 << 30)
	if n := minutes(5); n != 5 {
		t.Errorf("%d in 5 minutes after the clock was set back", n)
	}
	// Back by less than an hour: what has run does not run again.
	c.now = c.now.Add(-30 * time.Minute)
	if n := minutes(30); n != 0 {
		t.Errorf("%d have run twice", n)
	}
	if n := minutes(5); n != 5 {
		t.Errorf("%d in 5 minutes", n)
	}
}

func TestCronJob_Zone(t *testing.T) {
	zone := "Europe/Berlin"
	c := newClock(t, "30 2 * * *", func(s *batchv1.CronJobSpec) { s.TimeZone = &zone })
	where, _ := time.LoadLocation(zone)
	// Through a year, with the hour that is missing in March and the one that is
	// there twice in October.
	for c.now.Before(epoch.AddDate(1, 0, 0)) {
		c.now = c.now.Add(3 * time.Hour)
		c.sync(1 << 30)
		c.finish(batchv1.JobComplete)
		for name := range c.jobs {
			delete(c.jobs, name)
		}
	}
	days := map[string]int{}
	for _, text := range c.made {
		at, _ := time.Parse(time.RFC3339, text)
		days[at.In(where).Format("01-02")]++
		if h := at.In(where).Format("15:04"); h != "02:30" {
			t.Errorf("%s", at.In(where))
		}
	}
	for day, n := range days {
		if n != 1 {
			t.Errorf("%d on %s", n, day)
		}
	}
	if len(days) != 364 { // 29 March has no half past two
		t.Errorf("%d days", len(days))
	}
	for _, z := range []string{"", "Local", "Nowhere/Land", "../../etc/passwd"} {
		if _, err := ParseZone(z); err == nil {
			t.Errorf("%q is a time zone", z)
		}
	}
	zone = "Nowhere/Land"
	if c.sync(1 << 30); c.plan.Create != nil || c.plan.Events[len(c.plan.Events)-1].Reason != "UnknownTimeZone" {
		t.Errorf("%+v", c.plan)
	}
}

func TestSchedule(t *testing.T) {
	for text, want := range map[string]string{
		"0 0 1 1 *": "2027-01-01 00:00", "*/15 * * * *": "2026-01-01 00:15", "0 12 * * MON-FRI": "2026-01-01 12:00", "0 12 * * 0": "2026-01-04 12:00",
		"@weekly": "2026-01-04 00:00", "@every 90m": "2026-01-01 01:30", "0 0 31 * *": "2026-01-31 00:00", "0 0 30 2 *": "0001-01-01 00:00",
	} {
		s, err := ParseSchedule(text)
		if err != nil || s.Next(epoch).Format("2006-01-02 15:04") != want {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{"", "* * * *", "* * * * * *", "60 * * * *", "x * * * *", "TZ=UTC * * * * *", "CRON_TZ=0", "TZ=0", "@sometimes", "*/0 * * * *", "5-1 * * * *"} {
		if _, err := ParseSchedule(text); err == nil {
			t.Errorf("%q is a schedule", text)
		}
	}
	// One that never comes does nothing, and takes no time.
	c := newClock(t, "0 0 30 2 *", nil)
	c.now = epoch.AddDate(10, 0, 0)
	if c.sync(1 << 30); c.plan.Create != nil || !c.plan.Again.IsZero() {
		t.Errorf("%+v", c.plan)
	}
	// Every so often counts from the last time.
	c = newClock(t, "@every 90m", nil)
	for range 12 * 60 {
		c.now = c.now.Add(time.Minute)
		c.sync(1 << 30)
	}
	if len(c.made) != 8 {
		t.Errorf("%v", c.made)
	}
}

func FuzzSchedule(f *testing.F) {
	for _, text := range []string{"* * * * *", "@daily", "TZ=0", "*/5 1-3,7 * JAN MON#1", "@every 1h"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := ParseSchedule(text); err == nil && s == nil {
			t.Error("neither a schedule nor an error")
		}
	})
}

func TestCronJob_Suspend(t *testing.T) {
	c := newClock(t, "* * * * *", func(s *batchv1.CronJobSpec) { s.Suspend = ptr(true) })
	for range 5 {
		c.now = c.now.Add(time.Minute)
		c.sync(1 << 30)
	}
	if len(c.made) != 0 || !c.plan.Again.IsZero() {
		t.Errorf("%v", c.made)
	}
	c.cron.Spec.Suspend = nil
	if c.sync(1 << 30); len(c.made) != 1 {
		t.Errorf("%v", c.made)
	}
}

func TestCronJob_History(t *testing.T) {
	c := newClock(t, "* * * * *", func(s *batchv1.CronJobSpec) {
		s.SuccessfulJobsHistoryLimit, s.FailedJobsHistoryLimit = ptr(int32(2)), ptr(int32(1))
	})
	for i := range 10 {
		c.now = c.now.Add(time.Minute)
		c.sync(1 << 30)
		c.finish([]batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed}[i%2])
	}
	c.sync(1 << 30)
	var left []string
	for _, j := range c.jobs {
		left = append(left, string(Finished(j).Type))
	}
	if s := strings.Join(left, " "); strings.Count(s, "Complete") != 2 || strings.Count(s, "Failed") != 1 {
		t.Errorf("%v", left)
	}
	if !reflect.DeepEqual(c.cron.Status.Active, []corev1.ObjectReference(nil)) {
		t.Errorf("%v", c.cron.Status.Active)
	}
}
