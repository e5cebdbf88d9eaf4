# by  where true
#pragma D option quiet
#pragma D option aggrate=10hz
#pragma D option aggsize=4m
#pragma D option bufsize=256k
#pragma D option cleanrate=101hz
#pragma D option dynvarsize=32m
#pragma D option strsize=128
#pragma D option switchrate=10hz
BEGIN {
  iapi_end = timestamp + 60000000000;
  iapi_second = walltimestamp / 1000000000;
  printf("S\n");
}
fbt:genunix:fop_open:return,
fbt:genunix:fop_close:return,
fbt:genunix:fop_read:return,
fbt:genunix:fop_write:return,
fbt:genunix:fop_ioctl:return,
fbt:genunix:fop_getattr:return,
fbt:genunix:fop_setattr:return,
fbt:genunix:fop_access:return,
fbt:genunix:fop_create:return,
fbt:genunix:fop_remove:return,
fbt:genunix:fop_link:return,
fbt:genunix:fop_rename:return,
fbt:genunix:fop_mkdir:return,
fbt:genunix:fop_rmdir:return,
fbt:genunix:fop_readdir:return,
fbt:genunix:fop_symlink:return,
fbt:genunix:fop_readlink:return,
fbt:genunix:fop_fsync:return,
fbt:genunix:fop_seek:return,
fbt:genunix:fop_lookup:return {
  @total[""] = count();
}
syscall::lseek:entry /(pid == 4711) && ((int)arg0 == -1) && ((int)arg2 == 1001)/ {
  iapi_end = timestamp + (int64_t)arg1;
}
profile:::tick-100hz /timestamp > iapi_end/ { exit(0); }
profile:::tick-100hz /(walltimestamp / 1000000000) != iapi_second/ {
  iapi_second = walltimestamp / 1000000000;
  printf("B\t%d\n", iapi_second);
  printa("N\t%S\t%@d\n", @total);
  printf("E\n");
  trunc(@total);
}

# by execname, pid, ppid, latency where execname != "x" && pid != "17" && psargs != "x" && ppid != "17" && pexecname != "x" && ppsargs != "x" && fstype != "sockfs" && optype != "open" && latency >= 5
#pragma D option quiet
#pragma D option aggrate=10hz
#pragma D option aggsize=4m
#pragma D option bufsize=256k
#pragma D option cleanrate=101hz
#pragma D option dynvarsize=32m
#pragma D option strsize=128
#pragma D option switchrate=10hz
BEGIN {
  iapi_end = timestamp + 60000000000;
  iapi_second = walltimestamp / 1000000000;
  printf("S\n");
}
fbt:genunix:fop_close:entry,
fbt:genunix:fop_read:entry,
fbt:genunix:fop_write:entry,
fbt:genunix:fop_ioctl:entry,
fbt:genunix:fop_getattr:entry,
fbt:genunix:fop_setattr:entry,
fbt:genunix:fop_access:entry,
fbt:genunix:fop_create:entry,
fbt:genunix:fop_remove:entry,
fbt:genunix:fop_link:entry,
fbt:genunix:fop_rename:entry,
fbt:genunix:fop_mkdir:entry,
fbt:genunix:fop_rmdir:entry,
fbt:genunix:fop_readdir:entry,
fbt:genunix:fop_symlink:entry,
fbt:genunix:fop_readlink:entry,
fbt:genunix:fop_fsync:entry,
fbt:genunix:fop_seek:entry,
fbt:genunix:fop_lookup:entry /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && ((execname) != "x") && ((uint64_t)(pid) != 17) && ((curpsinfo->pr_psargs) != "x") && ((uint64_t)(ppid) != 17) && ((stringof(curthread->t_procp->p_parent->p_user.u_comm)) != "x") && ((stringof(curthread->t_procp->p_parent->p_user.u_psargs)) != "x") && (((probefunc) == "fop_access") || ((probefunc) == "fop_close") || ((probefunc) == "fop_create") || ((probefunc) == "fop_fsync") || ((probefunc) == "fop_getattr") || ((probefunc) == "fop_ioctl") || ((probefunc) == "fop_link") || ((probefunc) == "fop_lookup") || ((probefunc) == "fop_mkdir") || ((probefunc) == "fop_read") || ((probefunc) == "fop_readdir") || ((probefunc) == "fop_readlink") || ((probefunc) == "fop_remove") || ((probefunc) == "fop_rename") || ((probefunc) == "fop_rmdir") || ((probefunc) == "fop_seek") || ((probefunc) == "fop_setattr") || ((probefunc) == "fop_symlink") || ((probefunc) == "fop_write"))/ {
  self->s_fs = stringof(args[0]->v_op->vnop_name);
  self->s_t0 = timestamp;
}
fbt:genunix:fop_open:entry /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && ((execname) != "x") && ((uint64_t)(pid) != 17) && ((curpsinfo->pr_psargs) != "x") && ((uint64_t)(ppid) != 17) && ((stringof(curthread->t_procp->p_parent->p_user.u_comm)) != "x") && ((stringof(curthread->t_procp->p_parent->p_user.u_psargs)) != "x") && (((probefunc) == "fop_access") || ((probefunc) == "fop_close") || ((probefunc) == "fop_create") || ((probefunc) == "fop_fsync") || ((probefunc) == "fop_getattr") || ((probefunc) == "fop_ioctl") || ((probefunc) == "fop_link") || ((probefunc) == "fop_lookup") || ((probefunc) == "fop_mkdir") || ((probefunc) == "fop_read") || ((probefunc) == "fop_readdir") || ((probefunc) == "fop_readlink") || ((probefunc) == "fop_remove") || ((probefunc) == "fop_rename") || ((probefunc) == "fop_rmdir") || ((probefunc) == "fop_seek") || ((probefunc) == "fop_setattr") || ((probefunc) == "fop_symlink") || ((probefunc) == "fop_write"))/ {
  self->s_fs = stringof(args[0][0]->v_op->vnop_name);
  self->s_t0 = timestamp;
}
fbt:genunix:fop_open:return,
fbt:genunix:fop_close:return,
fbt:genunix:fop_read:return,
fbt:genunix:fop_write:return,
fbt:genunix:fop_ioctl:return,
fbt:genunix:fop_getattr:return,
fbt:genunix:fop_setattr:return,
fbt:genunix:fop_access:return,
fbt:genunix:fop_create:return,
fbt:genunix:fop_remove:return,
fbt:genunix:fop_link:return,
fbt:genunix:fop_rename:return,
fbt:genunix:fop_mkdir:return,
fbt:genunix:fop_rmdir:return,
fbt:genunix:fop_readdir:return,
fbt:genunix:fop_symlink:return,
fbt:genunix:fop_readlink:return,
fbt:genunix:fop_fsync:return,
fbt:genunix:fop_seek:return,
fbt:genunix:fop_lookup:return /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && (self->s_fs != 0) && (self->s_t0 != 0)/ {
  this->f_latency = (uint64_t)(timestamp - self->s_t0);
  this->step = (uint64_t)((((this->f_latency < 1000) || (this->f_latency >= 1000000000000)) ? 0 : ((this->f_latency < 10000000) ? ((this->f_latency < 100000) ? ((this->f_latency < 10000) ? 100 : 1000) : ((this->f_latency < 1000000) ? 10000 : 100000)) : ((this->f_latency < 1000000000) ? ((this->f_latency < 100000000) ? 1000000 : 10000000) : ((this->f_latency < 10000000000) ? 100000000 : ((this->f_latency < 100000000000) ? 1000000000 : 10000000000))))));
  this->low = (uint64_t)(((this->step > 0) ? ((this->f_latency / this->step) * this->step) : ((this->f_latency < 1000) ? 0 : 1000000000000)));
}
fbt:genunix:fop_open:return,
fbt:genunix:fop_close:return,
fbt:genunix:fop_read:return,
fbt:genunix:fop_write:return,
fbt:genunix:fop_ioctl:return,
fbt:genunix:fop_getattr:return,
fbt:genunix:fop_setattr:return,
fbt:genunix:fop_access:return,
fbt:genunix:fop_create:return,
fbt:genunix:fop_remove:return,
fbt:genunix:fop_link:return,
fbt:genunix:fop_rename:return,
fbt:genunix:fop_mkdir:return,
fbt:genunix:fop_rmdir:return,
fbt:genunix:fop_readdir:return,
fbt:genunix:fop_symlink:return,
fbt:genunix:fop_readlink:return,
fbt:genunix:fop_fsync:return,
fbt:genunix:fop_seek:return,
fbt:genunix:fop_lookup:return /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && (self->s_fs != 0) && (self->s_t0 != 0) && ((execname) != "x") && ((uint64_t)(pid) != 17) && ((curpsinfo->pr_psargs) != "x") && ((uint64_t)(ppid) != 17) && ((stringof(curthread->t_procp->p_parent->p_user.u_comm)) != "x") && ((stringof(curthread->t_procp->p_parent->p_user.u_psargs)) != "x") && ((self->s_fs) != "sockfs") && (((probefunc) == "fop_access") || ((probefunc) == "fop_close") || ((probefunc) == "fop_create") || ((probefunc) == "fop_fsync") || ((probefunc) == "fop_getattr") || ((probefunc) == "fop_ioctl") || ((probefunc) == "fop_link") || ((probefunc) == "fop_lookup") || ((probefunc) == "fop_mkdir") || ((probefunc) == "fop_read") || ((probefunc) == "fop_readdir") || ((probefunc) == "fop_readlink") || ((probefunc) == "fop_remove") || ((probefunc) == "fop_rename") || ((probefunc) == "fop_rmdir") || ((probefunc) == "fop_seek") || ((probefunc) == "fop_setattr") || ((probefunc) == "fop_symlink") || ((probefunc) == "fop_write")) && (this->f_latency >= 5)/ {
  @rows[zonename, this->low, (uint64_t)(pid), (uint64_t)(ppid), (execname)] = count();
  @total[zonename] = count();
}
fbt:genunix:fop_open:return,
fbt:genunix:fop_close:return,
fbt:genunix:fop_read:return,
fbt:genunix:fop_write:return,
fbt:genunix:fop_ioctl:return,
fbt:genunix:fop_getattr:return,
fbt:genunix:fop_setattr:return,
fbt:genunix:fop_access:return,
fbt:genunix:fop_create:return,
fbt:genunix:fop_remove:return,
fbt:genunix:fop_link:return,
fbt:genunix:fop_rename:return,
fbt:genunix:fop_mkdir:return,
fbt:genunix:fop_rmdir:return,
fbt:genunix:fop_readdir:return,
fbt:genunix:fop_symlink:return,
fbt:genunix:fop_readlink:return,
fbt:genunix:fop_fsync:return,
fbt:genunix:fop_seek:return,
fbt:genunix:fop_lookup:return /(self->s_fs != 0) && (self->s_t0 != 0)/ {
  self->s_fs = 0;
  self->s_t0 = 0;
}
syscall::lseek:entry /(pid == 4711) && ((int)arg0 == -1) && ((int)arg2 == 1001)/ {
  iapi_end = timestamp + (int64_t)arg1;
}
profile:::tick-100hz /timestamp > iapi_end/ { exit(0); }
profile:::tick-100hz /(walltimestamp / 1000000000) != iapi_second/ {
  iapi_second = walltimestamp / 1000000000;
  printf("B\t%d\n", iapi_second);
  printa("N\t%S\t%@d\n", @total);
  printa("R\t%S\t%u\t%u\t%u\t%S\t%@d\n", @rows);
  printf("E\n");
  trunc(@total);
  trunc(@rows);
}

