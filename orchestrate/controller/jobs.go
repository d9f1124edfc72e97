package controller

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/batch"
	"github.com/minirun/minirun/orchestrate/rollout"
	"github.com/minirun/minirun/orchestrate/store"
)

const (
	jobs     = "jobs.batch"
	cronJobs = "cronjobs.batch"
)

// ownJobs is who keeps Jobs that name nobody else.
const ownJobs = "kubernetes.io/job-controller"

// job syncs one.
func (c *Controller) job(ref store.Ref) (again time.Time, err error) {
	obj, err := c.s.Get(jobs, ref.Namespace, ref.Name)
	if err != nil {
		return again, err
	}
	job := obj.(*batchv1.Job)
	if by := job.Spec.ManagedBy; by != nil && *by != ownJobs {
		return again, nil
	}
	if job.Spec.Selector == nil {
		// It was stored by who gives no selectors.
		n := job.DeepCopy()
		if batch.Prepare(n); n.Spec.Selector != nil {
			if obj, err = c.s.Update(jobs, n, store.Main); err != nil {
				return again, err
			}
			job = obj.(*batchv1.Job)
		}
	}
	var mine []*corev1.Pod
	for _, r := range c.s.Owned(job.UID) {
		if r.Kind != pods {
			continue
		}
		if p, err := c.s.Get(pods, r.Namespace, r.Name); err == nil && metav1.IsControlledBy(p, job) {
			mine = append(mine, p.(*corev1.Pod))
		}
	}
	plan, err := batch.Job(batch.JobState{Job: job, Pods: mine, Now: c.now(), Then: c.then})
	if err != nil {
		return again, err
	}
	if plan.Remove {
		_, err = c.s.Delete(jobs, job.Namespace, job.Name, store.DeleteOptions{UID: job.UID, Revision: job.ResourceVersion})
		return again, err
	}
	for _, p := range plan.Drop {
		if err := c.untrack(p); err != nil {
			return again, err
		}
	}
	for _, p := range append(plan.Drop, plan.Delete...) {
		if err := c.end(p); err != nil {
			return again, err
		}
		c.record(job, "Job", rollout.Event{Type: "Normal", Reason: "SuccessfulDelete", Message: "Deleted pod: " + p.Name})
	}
	made := 0
	_, failed := rollout.SlowStart(len(plan.Create), func() error {
		p := plan.Create[made]
		made++
		p.Name = rollout.PodName(p.GenerateName[:len(p.GenerateName)-1], rand.Uint64())
		if _, err := c.s.Create(pods, p); err != nil {
			return err
		}
		c.record(job, "Job", rollout.Event{Type: "Normal", Reason: "SuccessfulCreate", Message: "Created pod: " + p.Name})
		return nil
	})
	if failed != nil {
		c.record(job, "Job", rollout.Event{Type: "Warning", Reason: "FailedCreate", Message: "Error creating: " + failed.Error()})
		return again, failed
	}
	n := job.DeepCopy()
	n.Status = plan.Status
	if _, err := c.s.Update(jobs, n, store.Status); err != nil {
		return again, err
	}
	// Only now: what is counted must be known before its pod can vanish.
	for _, p := range plan.Untrack {
		if err := c.untrack(p); err != nil {
			return again, err
		}
	}
	for _, e := range plan.Events {
		c.record(job, "Job", e)
	}
	return plan.Again, nil
}

// untrack takes the finalizer of Jobs from a pod.
func (c *Controller) untrack(p *corev1.Pod) error {
	n := p.DeepCopy()
	n.Finalizers = slices.DeleteFunc(n.Finalizers, func(f string) bool { return f == batch.Finalizer })
	_, err := c.s.Update(pods, n, store.Main)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// strayed lets go of a pod that waits to be counted by a Job that is gone.
func (c *Controller) strayed(ref store.Ref) error {
	obj, err := c.s.Get(pods, ref.Namespace, ref.Name)
	if err != nil {
		return err
	}
	p := obj.(*corev1.Pod)
	if !batch.Tracked(p) {
		return nil
	}
	if o := metav1.GetControllerOfNoCopy(p); o != nil {
		if j, err := c.s.Get(jobs, ref.Namespace, o.Name); err == nil && j.GetUID() == o.UID {
			return nil
		}
	}
	return c.untrack(p)
}

// podsOf has the pods of a Job that is gone looked at.
func (c *Controller) podsOf(job store.Object) {
	for _, r := range c.s.Owned(job.GetUID()) {
		if r.Kind == pods {
			c.add(r)
		}
	}
}

// cronJob syncs one.
func (c *Controller) cronJob(ref store.Ref) (again time.Time, err error) {
	obj, err := c.s.Get(cronJobs, ref.Namespace, ref.Name)
	if err != nil {
		return again, err
	}
	cron := obj.(*batchv1.CronJob)
	state := batch.CronState{Cron: cron, Now: c.now(), Then: c.then}
	for _, r := range c.s.Owned(cron.UID) {
		if r.Kind != jobs {
			continue
		}
		if j, err := c.s.Get(jobs, r.Namespace, r.Name); err == nil && metav1.IsControlledBy(j, cron) {
			state.Jobs = append(state.Jobs, j.(*batchv1.Job))
		}
	}
	plan, err := batch.CronJob(state)
	if err != nil {
		return again, err
	}
	remove := func(j *batchv1.Job) error {
		_, err := c.s.Delete(jobs, j.Namespace, j.Name, store.DeleteOptions{UID: j.UID})
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	for _, j := range plan.Replace {
		if err := remove(j); err != nil {
			return again, err
		}
	}
	if plan.Create != nil {
		j, err := c.s.Create(jobs, plan.Create)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			c.record(cron, "CronJob", rollout.Event{Type: "Warning", Reason: "FailedCreate", Message: "Error creating job: " + err.Error()})
			return again, err
		}
		if err == nil {
			plan.Status.Active = append(plan.Status.Active, corev1.ObjectReference{APIVersion: "batch/v1", Kind: "Job", Namespace: j.GetNamespace(), Name: j.GetName(), UID: j.GetUID()})
		}
	}
	n := cron.DeepCopy()
	n.Status = plan.Status
	if _, err := c.s.Update(cronJobs, n, store.Status); err != nil {
		return again, err
	}
	for _, j := range plan.Delete {
		if err := remove(j); err != nil {
			return again, err
		}
		c.record(cron, "CronJob", rollout.Event{Type: "Normal", Reason: "SuccessfulDelete", Message: "Deleted job " + j.Name})
	}
	for _, e := range plan.Events {
		c.record(cron, "CronJob", e)
	}
	return plan.Again, nil
}
