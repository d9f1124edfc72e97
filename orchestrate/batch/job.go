package batch

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/minirun/minirun/orchestrate/rollout"
)

// Finalizer keeps pods until they are counted.
const Finalizer = batchv1.JobTrackingFinalizer

// Waits between the failure of a pod and the next attempt.
const (
	firstWait = 10 * time.Second
	lastWait  = 10 * time.Minute
)

// maxAtOnce bounds what one sync makes, deletes or counts.
const maxAtOnce = 500

// JobState is what one sync of a Job looks at.
type JobState struct {
	Job *batchv1.Job
	// Pods are those that it controls, in every phase, with the finalizer or not.
	Pods []*corev1.Pod
	Now  time.Time
	Then rollout.Then
}

// JobPlan is what is to be done, in this order.
type JobPlan struct {
	// Remove tells that the Job has been over for long enough. There is nothing
	// else to do then.
	Remove bool
	// Drop are pods to delete that do not count: first without the finalizer.
	Drop []*corev1.Pod
	// Delete are pods to delete.
	Delete []*corev1.Pod
	// Create are pods to make. Their names are for the caller to choose.
	Create []*corev1.Pod
	// Status must be stored before anything of Untrack.
	Status batchv1.JobStatus
	// Untrack are pods that lose the finalizer.
	Untrack []*corev1.Pod
	Events  []rollout.Event
	Again   time.Time
}

// Prepare gives a new Job its selector, and its pods what it selects.
func Prepare(j *batchv1.Job) {
	if j.Spec.ManualSelector != nil && *j.Spec.ManualSelector || j.Spec.Selector != nil {
		return
	}
	t := &j.Spec.Template
	t.Labels = maps.Clone(t.Labels)
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	t.Labels[batchv1.ControllerUidLabel], t.Labels[batchv1.JobNameLabel] = string(j.UID), j.Name
	t.Labels["controller-uid"], t.Labels["job-name"] = string(j.UID), j.Name
	j.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{batchv1.ControllerUidLabel: string(j.UID)}}
}

// Tracked tells whether a pod has the finalizer.
func Tracked(p *corev1.Pod) bool { return slices.Contains(p.Finalizers, Finalizer) }

// Finished tells how a Job ended; nil if it has not.
func Finished(j *batchv1.Job) *batchv1.JobCondition {
	return trueOf(&j.Status, batchv1.JobComplete, batchv1.JobFailed)
}

// trueOf is the first condition of those types that holds.
func trueOf(st *batchv1.JobStatus, types ...batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range st.Conditions {
		if c := &st.Conditions[i]; c.Status == corev1.ConditionTrue && slices.Contains(types, c.Type) {
			return c
		}
	}
	return nil
}

type jobSync struct {
	JobState
	now     metav1.Time
	status  batchv1.JobStatus
	indexed bool
	n       int // completions; -1 if any success is enough
	done    indexes
	lost    indexes // failed for good
	// active pods run or will, terminating ones are to end.
	active, terminating, failed []*corev1.Pod
	plan                        JobPlan
}

// Job is one sync.
func Job(in JobState) (JobPlan, error) {
	j := in.Job
	s := &jobSync{JobState: in, now: metav1.NewTime(in.Now).Rfc3339Copy(), status: *j.Status.DeepCopy(), n: -1}
	if c := Finished(j); c != nil || j.DeletionTimestamp != nil {
		s.over(c)
		s.plan.Status = s.status
		return s.plan, nil
	}
	if s.indexed = j.Spec.CompletionMode != nil && *j.Spec.CompletionMode == batchv1.IndexedCompletion; j.Spec.Completions != nil {
		s.n = int(*j.Spec.Completions)
	}
	var err error
	if s.done, err = parseIndexes(s.status.CompletedIndexes, max(s.n, 0)); err != nil {
		return JobPlan{}, fmt.Errorf("job %q: %w", j.Name, err)
	}
	lost := ""
	if s.status.FailedIndexes != nil {
		lost = *s.status.FailedIndexes
	}
	if s.lost, err = parseIndexes(lost, max(s.n, 0)); err != nil {
		return JobPlan{}, fmt.Errorf("job %q: %w", j.Name, err)
	}
	s.start()
	s.divide()
	why := s.count()
	if s.judge(why); trueOf(&s.status, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet) != nil {
		s.finish()
	} else {
		s.manage()
	}
	s.tell()
	s.plan.Status = s.status
	return s.plan, nil
}

// over is what is left to do for a Job that has ended or is being deleted.
func (s *jobSync) over(c *batchv1.JobCondition) {
	for _, p := range s.Pods {
		if Tracked(p) {
			s.plan.Untrack = append(s.plan.Untrack, p)
		}
	}
	ttl := s.Job.Spec.TTLSecondsAfterFinished
	if c == nil || ttl == nil || s.Job.DeletionTimestamp != nil {
		return
	}
	at := s.Then.At(s.Job.UID, c.LastTransitionTime.Time).Add(time.Duration(*ttl) * time.Second)
	if s.plan.Remove = !at.After(s.Now); !s.plan.Remove {
		s.plan.Again = at
	}
}

// start notes when it began, and whether it is suspended.
func (s *jobSync) start() {
	c := s.condition(batchv1.JobSuspended)
	suspended := c != nil && c.Status == corev1.ConditionTrue
	switch {
	case s.suspend() && !suspended:
		s.set(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended")
		s.event("Normal", "Suspended", "Job suspended")
	case !s.suspend() && suspended:
		s.set(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed")
		s.event("Normal", "Resumed", "Job resumed")
		s.status.StartTime = &s.now
	case !s.suspend() && s.status.StartTime == nil:
		s.status.StartTime = &s.now
	}
}

func (s *jobSync) suspend() bool { return s.Job.Spec.Suspend != nil && *s.Job.Spec.Suspend }

// onlyFailed tells whether a pod that is to end is replaced only when it has.
func (s *jobSync) onlyFailed() bool {
	return s.Job.Spec.PodFailurePolicy != nil || s.Job.Spec.PodReplacementPolicy != nil && *s.Job.Spec.PodReplacementPolicy == batchv1.Failed
}

// ended tells whether nothing of a pod runs any more.
func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed ||
		p.DeletionTimestamp != nil && (p.DeletionGracePeriodSeconds == nil || *p.DeletionGracePeriodSeconds == 0)
}

func (s *jobSync) divide() {
	for _, p := range s.Pods {
		switch {
		case p.Status.Phase == corev1.PodSucceeded:
		case ended(p):
			s.failed = append(s.failed, p)
		case p.DeletionTimestamp != nil:
			if s.terminating = append(s.terminating, p); !s.onlyFailed() {
				s.failed = append(s.failed, p)
			}
		default:
			s.active = append(s.active, p)
		}
	}
}

// count takes the ends of pods in. It gives the reason if one of them ends the
// whole Job.
func (s *jobSync) count() (why string) {
	if s.status.UncountedTerminatedPods == nil {
		s.status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	u := s.status.UncountedTerminatedPods
	tracked := map[types.UID]bool{}
	for _, p := range s.Pods {
		tracked[p.UID] = Tracked(p)
	}
	flush := func(uids []types.UID, count *int32) []types.UID {
		return slices.DeleteFunc(slices.Clone(uids), func(uid types.UID) bool {
			if !tracked[uid] {
				*count++
			}
			return !tracked[uid]
		})
	}
	u.Succeeded, u.Failed = flush(u.Succeeded, &s.status.Succeeded), flush(u.Failed, &s.status.Failed)

	perIndex := s.Job.Spec.BackoffLimitPerIndex
	for _, p := range s.Pods {
		if p.Status.Phase != corev1.PodSucceeded || !Tracked(p) || slices.Contains(u.Succeeded, p.UID) || slices.Contains(u.Failed, p.UID) {
			continue
		}
		switch i := indexOf(p); {
		case s.indexed && i >= 0 && i < s.n:
			s.done[i] = true
		case !s.indexed:
			u.Succeeded = append(u.Succeeded, p.UID)
		}
	}
	for _, p := range s.failed {
		action, text := verdict(s.Job, p)
		if action == batchv1.PodFailurePolicyActionFailJob && why == "" {
			why = text
		}
		i := indexOf(p)
		if perIndex != nil && i >= 0 && i < s.n && !s.done[i] && action != batchv1.PodFailurePolicyActionIgnore &&
			(failures(p)+1 > int(*perIndex) || action == batchv1.PodFailurePolicyActionFailIndex) {
			s.lost[i] = true
		}
		if Tracked(p) && !slices.Contains(u.Failed, p.UID) && action != batchv1.PodFailurePolicyActionIgnore {
			u.Failed = append(u.Failed, p.UID)
		}
	}
	for _, p := range s.Pods {
		if Tracked(p) && (p.Status.Phase == corev1.PodSucceeded || slices.Contains(s.failed, p)) && !s.remembers(p) {
			s.plan.Untrack = append(s.plan.Untrack, p)
		}
	}
	if s.indexed {
		s.status.CompletedIndexes, s.status.Succeeded = s.done.String(), int32(len(s.done))
		if perIndex != nil {
			text := s.lost.String()
			s.status.FailedIndexes = &text
		}
	}
	return why
}

// remembers tells whether a pod that failed must stay because it alone knows how
// often its index did. The one that replaces it will.
func (s *jobSync) remembers(p *corev1.Pod) bool {
	i := indexOf(p)
	if s.Job.Spec.BackoffLimitPerIndex == nil || i < 0 || s.done[i] || s.lost[i] || !slices.Contains(s.failed, p) ||
		trueOf(&s.status, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet) != nil {
		return false
	}
	for _, o := range s.Pods {
		if o != p && indexOf(o) == i && (failures(o) > failures(p) || failures(o) == failures(p) && (!slices.Contains(s.failed, o) || o.UID > p.UID)) {
			return false
		}
	}
	return true
}

// judge finds out whether the Job is to end.
func (s *jobSync) judge(why string) {
	if trueOf(&s.status, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet) != nil {
		return
	}
	spec, u := &s.Job.Spec, s.status.UncountedTerminatedPods
	failed := int(s.status.Failed) + len(u.Failed)
	succeeded := int(s.status.Succeeded) + len(u.Succeeded)
	limit := 6
	if spec.BackoffLimit != nil {
		limit = int(*spec.BackoffLimit)
	}
	restarts := 0
	for _, p := range s.active {
		if spec.Template.Spec.RestartPolicy == corev1.RestartPolicyOnFailure && p.Status.Phase == corev1.PodRunning {
			for _, l := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
				for _, c := range l {
					restarts += int(c.RestartCount)
				}
			}
		}
	}
	deadline := time.Time{}
	if spec.ActiveDeadlineSeconds != nil && !s.suspend() && s.status.StartTime != nil {
		deadline = s.Then.At(s.Job.UID, s.status.StartTime.Time).Add(time.Duration(*spec.ActiveDeadlineSeconds) * time.Second)
		s.again(deadline)
	}
	rule := -1
	if s.indexed {
		rule = enough(s.Job, s.done)
	}
	complete := s.n >= 0 && succeeded >= s.n && len(s.active) == 0
	if s.n < 0 {
		complete = succeeded > 0 && len(s.active) == 0
	}
	fail := func(reason, message string) {
		s.set(batchv1.JobFailureTarget, corev1.ConditionTrue, reason, message)
	}
	switch {
	case why != "":
		fail(batchv1.JobReasonPodFailurePolicy, why)
	case failed > limit, restarts > 0 && restarts >= limit:
		fail(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	case !deadline.IsZero() && !deadline.After(s.Now):
		fail(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
	case spec.MaxFailedIndexes != nil && len(s.lost) > int(*spec.MaxFailedIndexes):
		fail(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
	case rule >= 0:
		s.set(batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, batchv1.JobReasonSuccessPolicy, fmt.Sprintf("Matched rules at index %d", rule))
	case len(s.lost) > 0 && len(s.lost)+len(s.done) >= s.n && len(s.active) == 0:
		fail(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
	case complete && !s.suspend():
		s.set(batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
	}
}

// finish ends what still runs. When nothing does and all is counted, the Job is
// over.
func (s *jobSync) finish() {
	s.plan.Delete = slices.Clone(s.active[:min(len(s.active), maxAtOnce)])
	u := s.status.UncountedTerminatedPods
	if len(s.active)+len(s.terminating)+len(u.Succeeded)+len(u.Failed) > 0 {
		return
	}
	for _, p := range s.Pods {
		if Tracked(p) {
			return
		}
	}
	if c := trueOf(&s.status, batchv1.JobFailureTarget); c != nil {
		s.set(batchv1.JobFailed, corev1.ConditionTrue, c.Reason, c.Message)
		s.event("Warning", c.Reason, "%s", c.Message)
	} else {
		c := trueOf(&s.status, batchv1.JobSuccessCriteriaMet)
		s.set(batchv1.JobComplete, corev1.ConditionTrue, c.Reason, c.Message)
		s.event("Normal", "Completed", "Job completed")
		s.status.CompletionTime = &s.now
	}
	if ttl := s.Job.Spec.TTLSecondsAfterFinished; ttl != nil {
		s.again(s.now.Add(time.Duration(*ttl) * time.Second))
	}
}

// manage brings the number of pods to what is wanted.
func (s *jobSync) manage() {
	if s.suspend() {
		s.plan.Drop = slices.Clone(s.active[:min(len(s.active), maxAtOnce)])
		return
	}
	want := 1
	if p := s.Job.Spec.Parallelism; p != nil {
		want = int(*p)
	}
	succeeded := int(s.status.Succeeded) + len(s.status.UncountedTerminatedPods.Succeeded)
	switch {
	case s.n >= 0:
		want = min(want, s.n-succeeded-len(s.lost))
	case succeeded > 0:
		want = min(want, len(s.active)) // none is added once one has succeeded
	}
	want = max(want, 0)
	victims := s.misplaced()
	for _, p := range s.active {
		// Somebody was killed between taking the finalizer and deleting it.
		if !Tracked(p) && !slices.Contains(victims, p) {
			victims = append(victims, p)
		}
	}
	keep := len(s.active) - len(victims)
	if keep > want {
		rest := slices.DeleteFunc(slices.Clone(s.active), func(p *corev1.Pod) bool { return slices.Contains(victims, p) })
		rollout.SortVictims(rest, s.Now)
		victims = append(victims, rest[:keep-want]...)
		keep = want
	}
	s.plan.Drop = victims[:min(len(victims), maxAtOnce)]
	lack := want - keep
	if s.onlyFailed() {
		lack -= len(s.terminating)
	}
	if lack = min(lack, maxAtOnce); lack <= 0 {
		return
	}
	if s.indexed {
		s.createIndexed(lack)
		return
	}
	var last, success time.Time
	for _, p := range s.Pods {
		if p.Status.Phase == corev1.PodSucceeded && s.endOf(p).After(success) {
			success = s.endOf(p)
		}
	}
	inRow := 0
	for _, p := range s.failed {
		if at := s.endOf(p); at.After(success) {
			if inRow++; at.After(last) {
				last = at
			}
		}
	}
	if at := last.Add(pause(inRow)); inRow > 0 && at.After(s.Now) {
		s.again(at)
		return
	}
	for range lack {
		s.plan.Create = append(s.plan.Create, s.pod(-1, 0))
	}
}

// pause is how long to wait after so many failures in a row.
func pause(failures int) time.Duration {
	d := firstWait
	for i := 1; i < failures && d < lastWait; i++ {
		d *= 2
	}
	return min(d, lastWait)
}

func (s *jobSync) endOf(p *corev1.Pod) time.Time { return s.Then.At(p.UID, endOf(p)) }

// endOf is when a pod ended.
func endOf(p *corev1.Pod) (at time.Time) {
	for _, c := range p.Status.ContainerStatuses {
		if t := c.State.Terminated; t != nil && t.FinishedAt.After(at) {
			at = t.FinishedAt.Time
		}
	}
	switch {
	case !at.IsZero():
	case p.DeletionTimestamp != nil:
		at = p.DeletionTimestamp.Time
		if g := p.DeletionGracePeriodSeconds; g != nil {
			at = at.Add(-time.Duration(*g) * time.Second) // when that was asked for
		}
	default:
		for _, c := range p.Status.Conditions {
			if c.LastTransitionTime.After(at) {
				at = c.LastTransitionTime.Time
			}
		}
		if at.IsZero() {
			at = p.CreationTimestamp.Time
		}
	}
	return at
}

// misplaced are pods whose index is done, failed, out of range or taken.
func (s *jobSync) misplaced() (out []*corev1.Pod) {
	if !s.indexed {
		return nil
	}
	sorted := slices.Clone(s.active)
	slices.SortFunc(sorted, func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.UID, b.UID))
	})
	taken := map[int]bool{}
	for _, p := range sorted {
		i := indexOf(p)
		if i < 0 || i >= s.n || s.done[i] || s.lost[i] || taken[i] {
			out = append(out, p)
		}
		taken[i] = true
	}
	return out
}

// createIndexed makes pods for the lowest indexes that have none.
func (s *jobSync) createIndexed(lack int) {
	busy := map[int]bool{}
	for _, p := range s.active {
		busy[indexOf(p)] = true
	}
	if s.onlyFailed() {
		for _, p := range s.terminating {
			busy[indexOf(p)] = true
		}
	}
	before, last, all, lastOfAll := map[int]int{}, map[int]time.Time{}, 0, time.Time{}
	for _, p := range s.failed {
		action, _ := verdict(s.Job, p)
		i, at := indexOf(p), s.endOf(p)
		n := failures(p)
		if action != batchv1.PodFailurePolicyActionIgnore {
			n++
		}
		before[i] = max(before[i], n)
		if at.After(last[i]) {
			last[i] = at
		}
		if all++; at.After(lastOfAll) {
			lastOfAll = at
		}
	}
	for i := 0; i < s.n && lack > 0; i++ {
		if busy[i] || s.done[i] || s.lost[i] {
			continue
		}
		n, since := all, lastOfAll // as with pods that have no index
		if s.Job.Spec.BackoffLimitPerIndex != nil {
			n, since = before[i], last[i]
		}
		if at := since.Add(pause(n)); !since.IsZero() && at.After(s.Now) {
			s.again(at)
			continue
		}
		s.plan.Create = append(s.plan.Create, s.pod(i, before[i]))
		lack--
	}
}

// pod is a new pod; index is -1 if it has none.
func (s *jobSync) pod(index, failed int) *corev1.Pod {
	yes := true
	t := s.Job.Spec.Template.DeepCopy()
	p := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Job.Namespace, GenerateName: s.Job.Name + "-", Labels: t.Labels, Annotations: t.Annotations, Finalizers: append(t.Finalizers, Finalizer),
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "batch/v1", Kind: "Job", Name: s.Job.Name, UID: s.Job.UID, Controller: &yes, BlockOwnerDeletion: &yes,
			}},
		},
		Spec: t.Spec,
	}
	if index < 0 {
		return p
	}
	text := strconv.Itoa(index)
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Annotations[batchv1.JobCompletionIndexAnnotation], p.Labels[batchv1.JobCompletionIndexAnnotation] = text, text
	if s.Job.Spec.BackoffLimitPerIndex != nil {
		p.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(failed)
	}
	p.GenerateName = fmt.Sprintf("%s-%d-", s.Job.Name, index)
	if p.Spec.Hostname == "" {
		p.Spec.Hostname = fmt.Sprintf("%s-%d", s.Job.Name, index)
	}
	for _, l := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range l {
			if !slices.ContainsFunc(l[i].Env, func(e corev1.EnvVar) bool { return e.Name == "JOB_COMPLETION_INDEX" }) {
				l[i].Env = append(l[i].Env, corev1.EnvVar{Name: "JOB_COMPLETION_INDEX", Value: text})
			}
		}
	}
	return p
}

// tell brings the numbers of pods into the status.
func (s *jobSync) tell() {
	ready, terminating := int32(0), int32(len(s.terminating)+len(s.plan.Drop)+len(s.plan.Delete))
	going := map[types.UID]bool{}
	for _, l := range [][]*corev1.Pod{s.plan.Drop, s.plan.Delete} {
		for _, p := range l {
			going[p.UID] = true
		}
	}
	for _, p := range s.active {
		if rollout.PodReady(p) && !going[p.UID] {
			ready++
		}
	}
	s.status.Active = int32(len(s.active) - len(going) + len(s.plan.Create))
	s.status.Ready, s.status.Terminating = &ready, &terminating
}

func (s *jobSync) again(at time.Time) {
	if at.After(s.Now) && (s.plan.Again.IsZero() || at.Before(s.plan.Again)) {
		s.plan.Again = at
	}
}

func (s *jobSync) condition(t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range s.status.Conditions {
		if s.status.Conditions[i].Type == t {
			return &s.status.Conditions[i]
		}
	}
	return nil
}

func (s *jobSync) set(t batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string) {
	c := s.condition(t)
	if c == nil {
		s.status.Conditions = append(s.status.Conditions, batchv1.JobCondition{Type: t})
		c = &s.status.Conditions[len(s.status.Conditions)-1]
	}
	*c = batchv1.JobCondition{Type: t, Status: status, Reason: reason, Message: message, LastProbeTime: s.now, LastTransitionTime: s.now}
}

func (s *jobSync) event(kind, reason, format string, args ...any) {
	s.plan.Events = append(s.plan.Events, rollout.Event{Type: kind, Reason: reason, Message: fmt.Sprintf(format, args...)})
}
