package batch

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // the host may have none

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/rollout"
)

// ParseSchedule reads a schedule of five fields, or one like @daily. A time zone
// has a field of its own.
func ParseSchedule(text string) (cron.Schedule, error) {
	if strings.Contains(text, "TZ") {
		return nil, errors.New("cannot use TZ or CRON_TZ in schedule, use timeZone field instead")
	}
	s, err := cron.ParseStandard(text)
	if spec, ok := s.(*cron.SpecSchedule); ok && spec.Hour&everyHour == 0 {
		return once{spec}, nil
	}
	return s, err
}

// everyHour marks a field of hours that was written as *.
const everyHour = 1 << 63

// once is a schedule of certain hours. Of the hour that is there twice when summer
// time ends it takes the first.
type once struct{ *cron.SpecSchedule }

func (s once) Next(t time.Time) time.Time {
	for {
		t = s.SpecSchedule.Next(t)
		if h, m, _ := t.Clock(); t.IsZero() || !sameClock(t.Add(-time.Hour), h, m) {
			return t
		}
	}
}

func sameClock(t time.Time, hour, minute int) bool {
	h, m, _ := t.Clock()
	return h == hour && m == minute
}

// ParseZone reads the name of a time zone.
func ParseZone(name string) (*time.Location, error) {
	if name == "" || strings.EqualFold(name, "Local") {
		return nil, errors.New("must be the name of a time zone, like Europe/Berlin")
	}
	return time.LoadLocation(name)
}

// A clock that is that far behind the last schedule was set back: then the last
// one says nothing, and the schedule begins anew.
const setBack = time.Hour

// CronState is what one sync of a CronJob looks at.
type CronState struct {
	Cron *batchv1.CronJob
	// Jobs are those that it controls.
	Jobs []*batchv1.Job
	Now  time.Time
	Then rollout.Then
}

// CronPlan is what is to be done, in this order.
type CronPlan struct {
	// Replace are Jobs that another takes the place of.
	Replace []*batchv1.Job
	// Create, if not nil, is to be made. That it exists is no error: its name
	// says which time it is for.
	Create *batchv1.Job
	Status batchv1.CronJobStatus
	// Delete are Jobs that are over, beyond the history.
	Delete []*batchv1.Job
	Events []rollout.Event
	Again  time.Time
}

type cronSync struct {
	CronState
	plan   CronPlan
	active []*batchv1.Job
}

// CronJob is one sync.
func CronJob(in CronState) (CronPlan, error) {
	s := &cronSync{CronState: in}
	s.plan.Status = *in.Cron.Status.DeepCopy()
	s.look()
	s.history()
	if in.Cron.DeletionTimestamp != nil || in.Cron.Spec.Suspend != nil && *in.Cron.Spec.Suspend {
		return s.plan, nil
	}
	schedule, err := ParseSchedule(in.Cron.Spec.Schedule)
	if err != nil {
		s.event("Warning", "UnparseableSchedule", "unparseable schedule %q: %v", in.Cron.Spec.Schedule, err)
		return s.plan, nil // until it is changed
	}
	now := in.Now.Round(0) // schedules are of the clock that people see
	if z := in.Cron.Spec.TimeZone; z != nil {
		where, err := ParseZone(*z)
		if err != nil {
			s.event("Warning", "UnknownTimeZone", "invalid timeZone: %q: %v", *z, err)
			return s.plan, nil
		}
		now = now.In(where)
	}
	s.due(schedule, now)
	from := now
	if _, ok := schedule.(cron.ConstantDelaySchedule); ok { // counts from the last one
		from = s.since()
	}
	if next := schedule.Next(from); next.After(now) {
		s.plan.Again = next
	}
	return s.plan, nil
}

// look finds out what became of its Jobs.
func (s *cronSync) look() {
	st := &s.plan.Status
	byUID := map[string]*batchv1.Job{}
	for _, j := range s.Jobs {
		byUID[string(j.UID)] = j
		// A Job that was made while nobody could note it was made all the same.
		if at, err := time.Parse(time.RFC3339, j.Annotations[batchv1.CronJobScheduledTimestampAnnotation]); err == nil {
			if (st.LastScheduleTime == nil || at.After(st.LastScheduleTime.Time)) && at.Sub(s.Now) <= setBack {
				t := metav1.NewTime(at)
				st.LastScheduleTime = &t
			}
		}
		c := Finished(j)
		switch {
		case c == nil && j.DeletionTimestamp == nil:
			s.active = append(s.active, j)
		case c != nil && c.Type == batchv1.JobComplete && j.Status.CompletionTime != nil:
			if st.LastSuccessfulTime == nil || j.Status.CompletionTime.After(st.LastSuccessfulTime.Time) {
				st.LastSuccessfulTime = j.Status.CompletionTime
			}
		}
	}
	for _, r := range st.Active {
		j := byUID[string(r.UID)]
		if j == nil {
			s.event("Normal", "MissingJob", "Active job went missing: %v", r.Name)
		} else if c := Finished(j); c != nil {
			s.event("Normal", "SawCompletedJob", "Saw completed job: %s, condition: %v", j.Name, c.Type)
		}
	}
	slices.SortFunc(s.active, func(a, b *batchv1.Job) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	st.Active = nil
	for _, j := range s.active {
		st.Active = append(st.Active, corev1.ObjectReference{APIVersion: "batch/v1", Kind: "Job", Namespace: j.Namespace, Name: j.Name, UID: j.UID, ResourceVersion: ""})
	}
}

// history deletes the oldest Jobs that are over.
func (s *cronSync) history() {
	for _, h := range []struct {
		t     batchv1.JobConditionType
		limit *int32
	}{{batchv1.JobComplete, s.Cron.Spec.SuccessfulJobsHistoryLimit}, {batchv1.JobFailed, s.Cron.Spec.FailedJobsHistoryLimit}} {
		if h.limit == nil {
			continue
		}
		var over []*batchv1.Job
		for _, j := range s.Jobs {
			if c := Finished(j); c != nil && c.Type == h.t && j.DeletionTimestamp == nil {
				over = append(over, j)
			}
		}
		slices.SortFunc(over, func(a, b *batchv1.Job) int {
			if a.Status.StartTime != nil && b.Status.StartTime != nil {
				if c := s.Then.At(a.UID, a.Status.StartTime.Time).Compare(s.Then.At(b.UID, b.Status.StartTime.Time)); c != 0 {
					return c
				}
			}
			return strings.Compare(a.Name, b.Name)
		})
		s.plan.Delete = append(s.plan.Delete, over[:max(len(over)-int(*h.limit), 0)]...)
	}
}

// due starts the Job of the last time that has passed, if there is one. Of
// several times that were missed only the last one counts.
func (s *cronSync) due(schedule cron.Schedule, now time.Time) {
	st, since := &s.plan.Status, s.since()
	if since.Sub(now) > setBack {
		t := metav1.NewTime(now).Rfc3339Copy()
		st.LastScheduleTime = &t
		return
	}
	deadline := s.Cron.Spec.StartingDeadlineSeconds
	limit := time.Time{}
	if deadline != nil {
		limit = now.Add(-time.Duration(*deadline) * time.Second)
	}
	at, missed := last(schedule, since.In(now.Location()), now)
	if at.IsZero() {
		return
	}
	if missed > 100 {
		s.event("Warning", "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	if deadline != nil && at.Before(limit) {
		s.event("Warning", "MissSchedule", "Missed scheduled time to start a job: %s", at.UTC().Format(time.RFC1123Z))
		t := metav1.NewTime(at)
		st.LastScheduleTime = &t // it is settled
		return
	}
	switch {
	case len(s.active) == 0:
	case s.Cron.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent:
		s.event("Normal", "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return // the end of that one brings us back
	case s.Cron.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent:
		for _, j := range s.active {
			s.plan.Replace = append(s.plan.Replace, j)
			s.event("Normal", "SuccessfulDelete", "Deleted job %v", j.Name)
		}
		st.Active = nil
	}
	s.plan.Create = s.job(at)
	s.event("Normal", "SuccessfulCreate", "Created job %v", s.plan.Create.Name)
	t := metav1.NewTime(at)
	st.LastScheduleTime = &t
}

// since is the time that was last settled.
func (s *cronSync) since() time.Time {
	if t := s.plan.Status.LastScheduleTime; t != nil {
		return t.Time
	}
	return s.Cron.CreationTimestamp.Time
}

// last is the latest time of a schedule after since and not after now, and about
// how many there were. It does not count through years of minutes.
func last(schedule cron.Schedule, since, now time.Time) (at time.Time, n int) {
	if every, ok := schedule.(cron.ConstantDelaySchedule); ok {
		k := now.Sub(since) / every.Delay
		return pick(k > 0, since.Add(k*every.Delay)), int(min(max(k, 0), 101))
	}
	if t := schedule.Next(since); t.IsZero() || t.After(now) {
		return time.Time{}, 0
	}
	// Twice as far back each time, until one is found: that is near.
	for span := time.Minute; ; span *= 2 {
		from := now.Add(-span)
		if from.Before(since) {
			from = since
		}
		for t := schedule.Next(from); !t.IsZero() && !t.After(now); t = schedule.Next(t) {
			at = t
			n++
		}
		if !at.IsZero() || from.Equal(since) {
			break
		}
	}
	if at.IsZero() {
		return at, 0
	}
	n = 0
	for t := schedule.Next(since); !t.IsZero() && !t.After(at) && n <= 100; t = schedule.Next(t) {
		n++
	}
	return at, n
}

func pick(yes bool, t time.Time) time.Time {
	if yes {
		return t
	}
	return time.Time{}
}

// job is the Job of one time.
func (s *cronSync) job(at time.Time) *batchv1.Job {
	yes := true
	t := s.Cron.Spec.JobTemplate.DeepCopy()
	name := s.Cron.Name
	if most := 63 - 11; len(name) > most {
		name = name[:most] // names of pods are host names
	}
	j := &batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Cron.Namespace, Name: fmt.Sprintf("%s-%d", name, at.Unix()/60), Labels: t.Labels, Annotations: maps.Clone(t.Annotations),
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "batch/v1", Kind: "CronJob", Name: s.Cron.Name, UID: s.Cron.UID, Controller: &yes, BlockOwnerDeletion: &yes,
			}},
		},
		Spec: t.Spec,
	}
	if j.Annotations == nil {
		j.Annotations = map[string]string{}
	}
	j.Annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.Format(time.RFC3339)
	return j
}

func (s *cronSync) event(kind, reason, format string, args ...any) {
	s.plan.Events = append(s.plan.Events, rollout.Event{Type: kind, Reason: reason, Message: fmt.Sprintf(format, args...)})
}
