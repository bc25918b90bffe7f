/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SPLITQ_H
#define SPLITQ_H

struct dentry;
struct folio;
struct mm_struct;

void splitq_pause_init(struct dentry *dir);
void splitq_pause_exit(void);

void splitq_folio_init(struct dentry *dir);
const char *splitq_list_state(struct folio *folio);
struct mm_struct *splitq_get_mm(int nr);
struct folio *splitq_get_folio(struct mm_struct *mm, unsigned long addr);

void splitq_audit_init(struct dentry *dir);

void splitq_jitter_init(struct dentry *dir);
void splitq_jitter_exit(void);

void splitq_bench_init(struct dentry *dir);

#endif
